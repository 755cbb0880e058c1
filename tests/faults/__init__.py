"""What a power cut, a full disk and a failing disk do to a volume, at each single step of its files.

`recorder.c` writes down what a process really does to its files; `disk` tells from that what a power cut at
any step may leave; the tests open a volume from there.
"""
