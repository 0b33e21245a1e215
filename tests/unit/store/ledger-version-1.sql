-- A ledger of tables version 1, as that version's code wrote it: three jobs that ran, one of them opened again, and one planned.
CREATE TABLE attempt (
  place INTEGER NOT NULL REFERENCES job (place), number INTEGER NOT NULL, launch_name TEXT NOT NULL, id TEXT,
  cores INTEGER, ram INTEGER, gpus INTEGER, intended_at REAL NOT NULL, launched_at REAL, started_at REAL, seen_at REAL,
  ended_at REAL, succeeded INTEGER, verified INTEGER NOT NULL, receipt TEXT, failure TEXT, log TEXT,
  PRIMARY KEY (place, number)
) WITHOUT ROWID;
INSERT INTO "attempt" VALUES(0,1,'test-j0-lx2m965l-0-1','f0000000',NULL,4,NULL,1795348800.0,1795348800.0,1795348805.0,1.79534881007177400591e+09,1.79534882535867810248e+09,1,1,'{"cpu_seconds":1.0,"exit_code":0,"finished_at":1795348825.0,"host":null,"missing":[],"oom_kills":0,"outputs":{},"peak_ram":null,"ram_limit":null,"started_at":1795348805.0,"stopped_by":null,"timed_out":false,"trouble":null,"workdir":null}',NULL,'logs/j0.1.log');
INSERT INTO "attempt" VALUES(1,1,'test-j1-lx2m965l-1-1','f0000001',NULL,4,NULL,1795348800.0,1795348800.0,1795348800.0,1.7953488047696928978e+09,1.79534881007177400591e+09,0,1,'{"cpu_seconds":1.0,"exit_code":3,"finished_at":1795348810.0,"host":null,"missing":[],"oom_kills":0,"outputs":{},"peak_ram":null,"ram_limit":null,"started_at":1795348800.0,"stopped_by":null,"timed_out":false,"trouble":null,"workdir":null}','{"code":3,"inferred":false,"kind":"ExitCode","message":""}','logs/j1.1.log');
INSERT INTO "attempt" VALUES(2,1,'test-j2-lx2m965l-2-1','f0000002',NULL,4,NULL,1795348800.0,1795348800.0,1795348805.0,1.79534881007177400591e+09,1.79534901507769489286e+09,1,1,'{"cpu_seconds":null,"exit_code":0,"finished_at":2.0,"host":null,"missing":[],"oom_kills":null,"outputs":{},"peak_ram":null,"ram_limit":null,"started_at":1.0,"stopped_by":null,"timed_out":false,"trouble":null,"workdir":null}',NULL,'logs/j2.1.log');
CREATE TABLE event (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, key TEXT NOT NULL, attempt INTEGER, kind TEXT NOT NULL, body TEXT NOT NULL
);
INSERT INTO "event" VALUES(1,1795348800.0,'j0',1,'Intended','{"launch_name":"test-j0-lx2m965l-0-1","resources":{"cores":null,"gpus":null,"ram":4}}');
INSERT INTO "event" VALUES(2,1795348800.0,'j1',1,'Intended','{"launch_name":"test-j1-lx2m965l-1-1","resources":{"cores":null,"gpus":null,"ram":4}}');
INSERT INTO "event" VALUES(3,1795348800.0,'j2',1,'Intended','{"launch_name":"test-j2-lx2m965l-2-1","resources":{"cores":null,"gpus":null,"ram":4}}');
INSERT INTO "event" VALUES(4,1795348800.0,'j0',1,'Launched','{"id":"f0000000"}');
INSERT INTO "event" VALUES(5,1795348800.0,'j1',1,'Launched','{"id":"f0000001"}');
INSERT INTO "event" VALUES(6,1795348800.0,'j2',1,'Launched','{"id":"f0000002"}');
INSERT INTO "event" VALUES(7,1.7953488047696928978e+09,'j1',1,'Seen','{"phase":"running","started_at":1795348800.0}');
INSERT INTO "event" VALUES(8,1.79534881007177400591e+09,'j0',1,'Seen','{"phase":"running","started_at":1795348805.0}');
INSERT INTO "event" VALUES(9,1.79534881007177400591e+09,'j2',1,'Seen','{"phase":"running","started_at":1795348805.0}');
INSERT INTO "event" VALUES(10,1.79534881007177400591e+09,'j1',1,'Ended','{"failure":{"code":3,"inferred":false,"kind":"ExitCode","message":""},"log":"/arc/home/me/batches/test/logs/j1.1.log","receipt":{"cpu_seconds":1.0,"exit_code":3,"finished_at":1795348810.0,"host":null,"missing":[],"oom_kills":0,"outputs":{},"peak_ram":null,"ram_limit":null,"started_at":1795348800.0,"stopped_by":null,"timed_out":false,"trouble":null,"workdir":null},"succeeded":false,"verified":true}');
INSERT INTO "event" VALUES(11,1.79534881007177400591e+09,'j1',1,'GaveUp','{"why":"retry=never"}');
INSERT INTO "event" VALUES(12,1.79534882535867810248e+09,'j0',1,'Ended','{"log":"/arc/home/me/batches/test/logs/j0.1.log","receipt":{"cpu_seconds":1.0,"exit_code":0,"finished_at":1795348825.0,"host":null,"missing":[],"oom_kills":0,"outputs":{},"peak_ram":null,"ram_limit":null,"started_at":1795348805.0,"stopped_by":null,"timed_out":false,"trouble":null,"workdir":null},"succeeded":true,"verified":true}');
INSERT INTO "event" VALUES(13,1.79534882535867810248e+09,'j0',1,'Collected','{"kept":true}');
INSERT INTO "event" VALUES(14,1.79534901507769489286e+09,'j2',1,'Ended','{"failure":{"inferred":true,"kind":"Lost","message":"the platform stopped knowing the job, and nothing says how it ended"},"log":"/arc/home/me/batches/test/logs/j2.1.log","succeeded":false,"verified":false}');
INSERT INTO "event" VALUES(15,1.79534901507769489286e+09,'j2',1,'GaveUp','{"why":"retry=never"}');
INSERT INTO "event" VALUES(16,1.79534901507769489286e+09,'j2',1,'Proved','{"receipt":{"cpu_seconds":null,"exit_code":0,"finished_at":2.0,"host":null,"missing":[],"oom_kills":null,"outputs":{},"peak_ram":null,"ram_limit":null,"started_at":1.0,"stopped_by":null,"timed_out":false,"trouble":null,"workdir":null}}');
INSERT INTO "event" VALUES(17,1.79534901507769489286e+09,'j2',1,'Collected','{"kept":true}');
INSERT INTO "event" VALUES(18,1.79534901507769489286e+09,'j1',1,'Reopened','{}');
CREATE TABLE job (
  place INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE COLLATE NOCASE, spec INTEGER NOT NULL REFERENCES spec (id),
  fields TEXT NOT NULL, filled TEXT NOT NULL, state TEXT NOT NULL, cores INTEGER, ram INTEGER, gpus INTEGER, due REAL,
  cancelling INTEGER NOT NULL, forgiven INTEGER NOT NULL, collected INTEGER NOT NULL, result TEXT, collect_error TEXT
);
INSERT INTO "job" VALUES(0,'j0',1,'{"n":0}','{"argv":["fit","0"],"env":[["BAND","r"]],"name":null,"outputs":["out/0"],"workdir":null}','succeeded',NULL,4,NULL,NULL,0,0,1,'{"$home": "logs/j0.1.log"}',NULL);
INSERT INTO "job" VALUES(1,'j1',1,'{"n":1}','{"argv":["fit","1"],"env":[["BAND","r"]],"name":null,"outputs":["out/1"],"workdir":null}','waiting',NULL,4,NULL,1.79534901507769489286e+09,0,1,0,NULL,NULL);
INSERT INTO "job" VALUES(2,'j2',1,'{"n":2}','{"argv":["fit","2"],"env":[["BAND","r"]],"name":null,"outputs":["out/2"],"workdir":null}','succeeded',NULL,4,NULL,NULL,0,0,1,'{"$home": "logs/j2.1.log"}',NULL);
INSERT INTO "job" VALUES(3,'j3',1,'{"n":3}','{"argv":["fit","3"],"env":[["BAND","r"]],"name":null,"outputs":["out/3"],"workdir":null}','planned',NULL,4,NULL,NULL,0,0,0,NULL,NULL);
CREATE TABLE lease (
  one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, holder TEXT, host TEXT, boot TEXT,
  pid INTEGER, born TEXT, until_ticks REAL, until REAL,
  looked REAL
);
INSERT INTO "lease" VALUES(1,5,NULL,'laptop','',1,'',8.1507769498015932184e+02,1.79534961507769489285e+09,1.79534901507769489286e+09);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('created','2026-11-22T12:00:00+00:00');
INSERT INTO "meta" VALUES('name','test');
INSERT INTO "meta" VALUES('platform','local');
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('token','7aabdea99e576374af0cd7e744b4a3e4');
INSERT INTO "meta" VALUES('user','fake');
INSERT INTO "meta" VALUES('workdir','../..');
CREATE TABLE request (seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, keys TEXT);
CREATE TABLE spec (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);
INSERT INTO "spec" VALUES(1,'{"cmd":"fit {n}","cores":null,"env":{"BAND":"r"},"gpus":null,"image":"skaha/astroml","name":null,"outputs":["out/{n}"],"pending_timeout":null,"ram":4,"receipt":true,"shell":false,"timeout":null,"workdir":null}');
CREATE INDEX event_of_job ON event (key);
