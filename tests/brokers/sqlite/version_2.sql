-- A file of version 2: an SQLite broker as it was before there were limits, with a message in every state.
PRAGMA application_id = 1416783216;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE departed (
        publisher TEXT NOT NULL,
        page INTEGER NOT NULL,
        bits BLOB NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (publisher, page)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE failures (
        seq INTEGER NOT NULL,
        number INTEGER NOT NULL,
        failure BLOB NOT NULL,
        PRIMARY KEY (seq, number)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "failures" VALUES(2,1,X'7B2274797065223A2256616C75654572726F72222C226D657373616765223A226F6F7073222C226174223A313730303030303030302E302C22617474656D7074223A317D');
CREATE TABLE head (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        seq INTEGER NOT NULL,
        clock REAL NOT NULL
    ) STRICT;
INSERT INTO "head" VALUES(1,9,1700000000.0);
CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        due REAL NOT NULL,
        state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
        expires REAL,
        deliveries INTEGER NOT NULL DEFAULT 0,
        owner TEXT,
        until REAL NOT NULL DEFAULT 0.0,
        cancel TEXT,
        failures INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        returns INTEGER NOT NULL DEFAULT 0,
        withdrawals INTEGER NOT NULL DEFAULT 0,
        spent_failures INTEGER NOT NULL DEFAULT 0,
        spent_crashes INTEGER NOT NULL DEFAULT 0,
        requeues INTEGER NOT NULL DEFAULT 0,
        stray_since REAL,
        verdict TEXT,
        settled INTEGER NOT NULL DEFAULT 0,
        ended REAL,
        reason TEXT,
        forget REAL,
        max_crashes INTEGER,
        result_ttl REAL,
        queue INTEGER NOT NULL,
        id TEXT NOT NULL,
        publisher TEXT NOT NULL,
        publication INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        enqueued REAL NOT NULL,
        unique_key TEXT,
        result BLOB,
        unreadable TEXT
    ) STRICT;
INSERT INTO "messages" VALUES(1,1700000000.0,3,NULL,1,NULL,1700000030.0,NULL,0,0,0,0,0,0,0,NULL,'Done',1,1700000000.0,NULL,2700000000.0,NULL,NULL,1,'done','test',1,9,1700000000.0,NULL,X'3432',NULL);
INSERT INTO "messages" VALUES(2,1700000000.0,4,NULL,1,NULL,1700000030.0,NULL,1,0,0,0,0,0,0,NULL,'Failed',1,1700000000.0,'failed',NULL,NULL,NULL,1,'dead','test',2,9,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(3,1700000000.0,2,NULL,1,'w',1700000030.0,NULL,0,0,0,0,0,0,0,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,1,'leased','test',3,9,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(4,1700000000.0,5,NULL,1,NULL,1700000030.0,'enough',0,0,0,1,0,0,0,NULL,'Withdrawn',1,1700000000.0,'enough',2700000000.0,NULL,NULL,1,'cancelled','test',4,9,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(5,1700000000.0,1,NULL,0,NULL,0.0,NULL,0,0,0,0,0,0,0,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,1,'ready','test',5,5,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(6,1700000000.0,1,NULL,0,NULL,0.0,NULL,0,0,0,0,0,0,0,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,1,'second','test',6,5,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(7,1700000000.0,1,NULL,0,NULL,0.0,NULL,0,0,0,0,0,0,0,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,1,'urgent','test',7,9,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(8,1700000600.0,0,NULL,0,NULL,0.0,NULL,0,0,0,0,0,0,0,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,1,'later','test',8,5,1700000000.0,NULL,NULL,NULL);
INSERT INTO "messages" VALUES(9,1700000000.0,1,1700003600.0,0,NULL,0.0,NULL,0,0,0,0,0,0,0,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,1,'unique','test',9,5,1700000000.0,'k',NULL,NULL);
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
INSERT INTO "payloads" VALUES(1,X'7B7D');
INSERT INTO "payloads" VALUES(2,X'7B7D');
INSERT INTO "payloads" VALUES(3,X'7B7D');
INSERT INTO "payloads" VALUES(4,X'7B7D');
INSERT INTO "payloads" VALUES(5,X'7B7D');
INSERT INTO "payloads" VALUES(6,X'7B7D');
INSERT INTO "payloads" VALUES(7,X'7B7D');
INSERT INTO "payloads" VALUES(8,X'7B7D');
INSERT INTO "payloads" VALUES(9,X'7B7D');
CREATE TABLE queues (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE,
        paused INTEGER NOT NULL DEFAULT 0
    ) STRICT;
INSERT INTO "queues" VALUES(1,'q',0);
CREATE TABLE records (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        until REAL
    ) STRICT;
INSERT INTO "records" VALUES('k',X'31',NULL);
CREATE UNIQUE INDEX messages_id ON messages (queue, id);
CREATE UNIQUE INDEX messages_unique ON messages (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 3;
CREATE INDEX messages_waiting ON messages (queue, priority, due) WHERE state < 2;
CREATE INDEX messages_ttl ON messages (queue, expires) WHERE state < 2 AND expires IS NOT NULL;
CREATE INDEX messages_leased ON messages (queue, until) WHERE state = 2;
CREATE INDEX messages_asked ON messages (owner) WHERE state = 2 AND cancel IS NOT NULL;
CREATE INDEX messages_ended ON messages (queue, state) WHERE ended IS NOT NULL;
CREATE INDEX messages_forget ON messages (forget) WHERE forget IS NOT NULL;
CREATE INDEX records_until ON records (until) WHERE until IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('queues',1);
COMMIT;
