"""The ledger's tables. Documented, with the invariants, in docs/formats/ledger.md."""

APPLICATION_ID = 0x53464C47  # "SFLG"
SERVED_APPLICATION_ID = 0x53464C53  # "SFLS": one that is served, which no process may use as its own
VERSION = 1

TABLES = """
CREATE TABLE ledger(                  -- one row: whose ledger this is
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    operator BLOB NOT NULL CHECK (length(operator) = 32),
    ledger_id BLOB NOT NULL CHECK (length(ledger_id) = 16)
) STRICT;
CREATE TABLE account(
    account INTEGER NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('person', 'lane', 'issue')),
    key BLOB NOT NULL,                -- public key, lane id, or, of the one 'issue' account, the operator's
    balance INTEGER NOT NULL,         -- always the sum of its entries; only 'issue' may be below zero
    UNIQUE (kind, key),
    CHECK (balance >= 0 OR kind = 'issue')
) STRICT;
CREATE TABLE transfer(
    transfer INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,               -- issue, transfer, open, top-up, claim, return
    order_id BLOB UNIQUE,             -- idempotency key of the caller
    digest BLOB NOT NULL,             -- SHA-256 of what was ordered, to tell a repeat from a conflict
    lane BLOB,
    memo TEXT NOT NULL,
    evidence BLOB                     -- operator's signature (issue) or the signed voucher (claim)
) STRICT;
CREATE TABLE entry(                   -- the entries of one transfer sum to zero
    transfer INTEGER NOT NULL REFERENCES transfer,
    account INTEGER NOT NULL REFERENCES account,
    amount INTEGER NOT NULL,
    PRIMARY KEY (account, transfer)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_transfer ON entry(transfer);
CREATE TABLE lane(
    lane BLOB NOT NULL PRIMARY KEY CHECK (length(lane) = 32),
    account INTEGER NOT NULL UNIQUE REFERENCES account,
    payer INTEGER NOT NULL REFERENCES account,
    payee INTEGER NOT NULL REFERENCES account,
    source INTEGER NOT NULL REFERENCES account,
    deposit INTEGER NOT NULL,         -- up to which total vouchers are covered; = claimed once it has ended
    claimed INTEGER NOT NULL,         -- total that vouchers ever moved to the payee
    expiry INTEGER NOT NULL,          -- seconds since 1970
    state TEXT NOT NULL CHECK (state IN ('open', 'closed', 'refunded')),
    number INTEGER NOT NULL UNIQUE,   -- order of their first opening
    CHECK (0 <= claimed AND claimed <= deposit)
) STRICT;
CREATE INDEX lane_payer ON lane(payer);
CREATE INDEX lane_payee ON lane(payee);
CREATE INDEX lane_source ON lane(source);
"""

CHAIN = """
CREATE TABLE IF NOT EXISTS served(    -- one row, in a served ledger: by whom
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    node_id BLOB NOT NULL CHECK (length(node_id) = 32)
) STRICT;
CREATE TABLE IF NOT EXISTS chain(     -- one row per transfer
    transfer INTEGER NOT NULL PRIMARY KEY REFERENCES transfer,
    link BLOB NOT NULL CHECK (length(link) = 32)
) STRICT;
"""

# Each query must find nothing; the text says what it means if it does.
INVARIANTS = (
    ("entries do not sum to zero", "SELECT 1 FROM (SELECT sum(amount) AS s FROM entry) WHERE s <> 0"),
    (
        "a transfer's entries do not sum to zero",
        "SELECT transfer FROM entry GROUP BY transfer HAVING sum(amount) <> 0",
    ),
    (
        "an account's balance is not the sum of its entries",
        "SELECT account FROM account AS a WHERE balance <> "
        "coalesce((SELECT sum(amount) FROM entry WHERE account = a.account), 0)",
    ),
    ("an account is below zero", "SELECT account FROM account WHERE balance < 0 AND kind <> 'issue'"),
    ("a lane paid out more than its deposit", "SELECT lane FROM lane WHERE claimed > deposit OR claimed < 0"),
    (
        "a lane's reserve is not deposit minus claimed",
        "SELECT lane FROM lane JOIN account USING (account) WHERE balance <> deposit - claimed",
    ),
    (
        "a lane that ended holds a reserve",
        "SELECT lane FROM lane WHERE state <> 'open' AND deposit <> claimed",
    ),
)
