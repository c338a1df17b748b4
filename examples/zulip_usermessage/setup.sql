-- One row for each message and each of its recipients: the first table whose integers run out.
CREATE TABLE zerver_userprofile (id serial PRIMARY KEY, email text NOT NULL);
CREATE TABLE zerver_message (id serial PRIMARY KEY, content text NOT NULL);
CREATE TABLE zerver_usermessage (
  id serial PRIMARY KEY,
  flags bigint NOT NULL DEFAULT 0,
  message_id integer NOT NULL REFERENCES zerver_message DEFERRABLE INITIALLY DEFERRED,
  user_profile_id integer NOT NULL REFERENCES zerver_userprofile DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT zerver_usermessage_user_profile_id_message_id_uniq UNIQUE (user_profile_id, message_id),
  CHECK (flags >= 0)
);
CREATE INDEX zerver_usermessage_unread ON zerver_usermessage (user_profile_id, id) WHERE (flags & 1) = 0;
CREATE INDEX zerver_usermessage_message_id ON zerver_usermessage (message_id);
INSERT INTO zerver_userprofile (email) SELECT 'user' || g || '@example.org' FROM generate_series(1, 20) g;
INSERT INTO zerver_message (content) SELECT 'message ' || g FROM generate_series(1, 30) g;
INSERT INTO zerver_usermessage (message_id, user_profile_id, flags)
  SELECT m, u, (m + u) % 4 FROM generate_series(1, 30) m, generate_series(1, 20) u;
