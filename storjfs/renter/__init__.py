"""Who holds what, is it still there, what was agreed and what is owed: the renter's side of every contract.

Placement, audits, pay and the policy of repair; the doing of a repair is the segments room's.
"""
