"""Tables of public projects, written anew from what is known of them: columns, keys, indexes, constraints, triggers, views.

Each is a template: a name in braces stands for a column's type (and default) that a migration changes, so that the schema
before and the schema as it should be afterwards come from the same text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """One migration: its operations, and what the template's placeholders say before and after."""

    id: str
    operations: tuple[Mapping[str, Any], ...]
    before: Mapping[str, str]
    after: Mapping[str, str]


@dataclass(frozen=True)
class Project:
    """One project's tables with some rows, and migrations of typical columns, in order."""

    name: str
    schema: str
    rows: str
    changes: tuple[Change, ...]

    def text(self, done: int) -> str:
        """The schema after the first `done` migrations."""
        filled: dict[str, str] = {}
        for number, change in enumerate(self.changes):
            filled |= change.after if number < done else change.before
        found = self.schema
        for name, value in filled.items():
            found = found.replace("{" + name + "}", value)
        return found


def _change(table: str, column: str, to: str, **more: Any) -> Mapping[str, Any]:
    return {"change_type": {"table": table, "column": column, "to": to, **more}}


_UTC = {"up": "created_at AT TIME ZONE 'UTC'", "down": "created_at AT TIME ZONE 'UTC'"}

MASTODON = Project(
    "mastodon",
    """
CREATE SEQUENCE accounts_id_seq;
CREATE SEQUENCE statuses_id_seq;
CREATE FUNCTION timestamp_id(table_name text) RETURNS bigint LANGUAGE plpgsql AS
  $$ BEGIN RETURN nextval('public.' || table_name || '_id_seq'); END $$;
CREATE TABLE accounts (
  id bigint DEFAULT timestamp_id('accounts') PRIMARY KEY, username varchar DEFAULT '' NOT NULL, domain {domain},
  private_key text, public_key text DEFAULT '' NOT NULL, created_at timestamp(6) NOT NULL, updated_at timestamp(6) NOT NULL,
  note text DEFAULT '' NOT NULL, display_name varchar DEFAULT '' NOT NULL, uri varchar DEFAULT '' NOT NULL, url varchar,
  locked boolean DEFAULT false NOT NULL, protocol integer DEFAULT 0 NOT NULL, suspended_at timestamp, moved_to_account_id bigint,
  discoverable boolean, also_known_as varchar[]
);
CREATE UNIQUE INDEX index_accounts_on_username_and_domain_lower ON accounts (lower(username::text), COALESCE(lower(domain::text), ''));
CREATE INDEX index_accounts_on_domain_and_id ON accounts (domain, id);
CREATE INDEX index_accounts_on_uri ON accounts (uri);
CREATE INDEX index_accounts_on_url ON accounts (url text_pattern_ops) WHERE url IS NOT NULL;
CREATE INDEX index_accounts_on_moved_to_account_id ON accounts (moved_to_account_id) WHERE moved_to_account_id IS NOT NULL;
CREATE INDEX search_index ON accounts USING gin (((setweight(to_tsvector('simple', display_name::text), 'A')
  || setweight(to_tsvector('simple', username::text), 'B')) || setweight(to_tsvector('simple', COALESCE(domain, '')::text), 'C')));
ALTER TABLE accounts ADD CONSTRAINT fk_2319be5eb FOREIGN KEY (moved_to_account_id) REFERENCES accounts ON DELETE SET NULL;
CREATE TABLE domain_blocks (id bigserial PRIMARY KEY, domain varchar DEFAULT '' NOT NULL UNIQUE);
CREATE TABLE statuses (
  id bigint DEFAULT timestamp_id('statuses') PRIMARY KEY, uri varchar, text text DEFAULT '' NOT NULL,
  created_at {created_at} NOT NULL, updated_at timestamp(6) NOT NULL, in_reply_to_id bigint, reblog_of_id bigint, url varchar,
  sensitive boolean DEFAULT false NOT NULL, visibility {visibility} DEFAULT 0 NOT NULL, spoiler_text text DEFAULT '' NOT NULL,
  reply boolean DEFAULT false NOT NULL, language varchar, conversation_id bigint, local boolean, account_id bigint NOT NULL,
  in_reply_to_account_id bigint, deleted_at timestamp, edited_at timestamp, ordered_media_attachment_ids bigint[]
);
CREATE UNIQUE INDEX index_statuses_on_uri ON statuses (uri text_pattern_ops) WHERE uri IS NOT NULL;
CREATE INDEX index_statuses_20190820 ON statuses (account_id, id DESC, visibility, updated_at) WHERE deleted_at IS NULL;
CREATE INDEX index_statuses_local_20190824 ON statuses (id DESC, account_id) WHERE (local OR uri IS NULL) AND deleted_at IS NULL
  AND visibility = 0 AND reblog_of_id IS NULL AND (NOT reply OR in_reply_to_account_id = account_id);
CREATE INDEX index_statuses_public_20200119 ON statuses (id DESC, account_id) WHERE deleted_at IS NULL AND visibility = 0
  AND reblog_of_id IS NULL AND (NOT reply OR in_reply_to_account_id = account_id);
CREATE INDEX index_statuses_on_in_reply_to_id ON statuses (in_reply_to_id) WHERE in_reply_to_id IS NOT NULL;
CREATE INDEX index_statuses_on_reblog_of_id_and_account_id ON statuses (reblog_of_id, account_id);
CREATE INDEX index_statuses_on_created_at ON statuses USING brin (created_at);
ALTER TABLE statuses ADD CONSTRAINT fk_9bda1543f7 FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE;
ALTER TABLE statuses ADD CONSTRAINT fk_c7fa917661 FOREIGN KEY (in_reply_to_account_id) REFERENCES accounts ON DELETE SET NULL;
ALTER TABLE statuses ADD CONSTRAINT fk_rails_256483a9ab FOREIGN KEY (reblog_of_id) REFERENCES statuses ON DELETE CASCADE;
CREATE MATERIALIZED VIEW instances AS
  WITH domain_counts AS (SELECT domain, count(*) AS accounts_count FROM accounts WHERE domain IS NOT NULL GROUP BY domain)
  SELECT domain, accounts_count FROM domain_counts UNION SELECT domain_blocks.domain, COALESCE(c.accounts_count, 0)
  FROM domain_blocks LEFT JOIN domain_counts c ON c.domain::text = domain_blocks.domain::text WITH NO DATA;
CREATE UNIQUE INDEX index_instances_on_domain ON instances (domain);
CREATE INDEX index_instances_on_reverse_domain ON instances (reverse(domain::text), domain);
CREATE MATERIALIZED VIEW account_summaries AS
  SELECT accounts.id AS account_id, mode() WITHIN GROUP (ORDER BY t0.language) AS language,
    mode() WITHIN GROUP (ORDER BY t0.visibility) AS visibility
  FROM accounts CROSS JOIN LATERAL (SELECT statuses.account_id, statuses.language, statuses.visibility FROM statuses
    WHERE statuses.account_id = accounts.id AND statuses.deleted_at IS NULL AND statuses.reblog_of_id IS NULL
    ORDER BY statuses.id DESC LIMIT 20) t0
  WHERE accounts.suspended_at IS NULL AND accounts.moved_to_account_id IS NULL AND accounts.discoverable = true
  GROUP BY accounts.id;
CREATE UNIQUE INDEX index_account_summaries_on_account_id ON account_summaries (account_id);
""",
    "INSERT INTO accounts (username, domain, created_at, updated_at, discoverable)"
    " SELECT 'u' || g, CASE WHEN g > 3 THEN 'h' || g || '.example' END, now(), now(), true FROM generate_series(1, 9) g;"
    "INSERT INTO statuses (text, created_at, updated_at, account_id, visibility)"
    " SELECT 't' || g, timestamp '2024-01-01' + g * interval '1 hour', now(), (SELECT min(id) FROM accounts) + g % 9, g % 4"
    " FROM generate_series(1, 60) g",
    (
        Change(
            "visibility_is_small",
            (_change("statuses", "visibility", "smallint"),),
            {"visibility": "integer"},
            {"visibility": "smallint"},
        ),
        Change(
            "statuses_know_their_zone",
            (_change("statuses", "created_at", "timestamptz(6)", **_UTC),),
            {"created_at": "timestamp(6)"},
            {"created_at": "timestamptz(6)"},
        ),
        Change(
            "domains_have_a_limit",
            (_change("accounts", "domain", "varchar(255)", up="domain", down="domain"),),
            {"domain": "varchar"},
            {"domain": "varchar(255)"},
        ),
    ),
)

GITLAB = Project(
    "gitlab",
    """
CREATE TABLE users (id bigserial PRIMARY KEY, username varchar);
CREATE TABLE namespaces (id bigserial PRIMARY KEY, path varchar NOT NULL);
CREATE TABLE projects (id bigserial PRIMARY KEY, namespace_id bigint NOT NULL REFERENCES namespaces, has_external_wiki boolean);
CREATE TABLE loose_foreign_keys_deleted_records (id bigserial, fully_qualified_table_name text NOT NULL,
  primary_key_value bigint NOT NULL, CONSTRAINT check_1a541f3235 CHECK (char_length(fully_qualified_table_name) <= 150));
CREATE FUNCTION insert_into_loose_foreign_keys_deleted_records() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.loose_foreign_keys_deleted_records (fully_qualified_table_name, primary_key_value)
    SELECT TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME, old_table.id FROM old_table;
  RETURN NULL;
END $$;
CREATE FUNCTION set_has_external_wiki() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE public.projects SET has_external_wiki = COALESCE(NEW.active, false) WHERE projects.id = COALESCE(NEW.project_id, OLD.project_id);
  RETURN NULL;
END $$;
CREATE TABLE events (
  id bigserial PRIMARY KEY, project_id {project_id}, author_id {author_id} NOT NULL, target_id bigint,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, action smallint NOT NULL, target_type varchar, group_id bigint,
  fingerprint bytea, imported_from smallint DEFAULT 0 NOT NULL,
  CONSTRAINT check_97e06e05ad CHECK (octet_length(fingerprint) <= 128),
  CONSTRAINT events_author_and_target CHECK (author_id > 0 AND (target_id IS NULL OR target_type IS NOT NULL)) NOT VALID
);
CREATE INDEX index_events_on_author_id_and_created_at ON events (author_id, created_at);
CREATE INDEX index_events_author_id_project_id_action_target_type_created_at ON events (author_id, project_id, action, target_type, created_at);
CREATE INDEX index_events_on_group_id_and_id ON events (group_id, id) WHERE group_id IS NOT NULL;
CREATE INDEX index_events_on_project_id_and_created_at ON events (project_id, created_at);
CREATE INDEX index_events_on_project_id_and_id_desc_on_merged_action ON events (project_id, id DESC) WHERE action = 7;
CREATE UNIQUE INDEX index_events_on_target_type_and_target_id_and_fingerprint ON events (target_type, target_id, fingerprint);
ALTER TABLE events ADD CONSTRAINT fk_edfd187b6f FOREIGN KEY (author_id) REFERENCES users ON DELETE CASCADE;
ALTER TABLE events ADD CONSTRAINT fk_rails_0434b48643 FOREIGN KEY (project_id) REFERENCES projects ON DELETE CASCADE NOT VALID;
CREATE STATISTICS events_author_project (dependencies) ON author_id, project_id FROM events;
CREATE TABLE merge_requests (
  id bigserial PRIMARY KEY, target_branch varchar NOT NULL, source_branch varchar NOT NULL, source_project_id bigint,
  author_id bigint REFERENCES users ON DELETE SET NULL, title varchar, created_at timestamp, updated_at timestamp,
  merge_status {merge_status} NOT NULL, target_project_id bigint NOT NULL REFERENCES projects ON DELETE CASCADE, iid integer,
  description text, lock_version integer DEFAULT 0, state_id smallint DEFAULT 1 NOT NULL, draft boolean DEFAULT false NOT NULL,
  merge_commit_sha varchar, latest_merge_request_diff_id bigint
);
CREATE UNIQUE INDEX index_merge_requests_on_target_project_id_and_iid ON merge_requests (target_project_id, iid);
CREATE INDEX index_merge_requests_on_tp_id_and_merge_commit_sha_and_id ON merge_requests (target_project_id, merge_commit_sha, id);
CREATE INDEX idx_merge_requests_on_merge_status ON merge_requests (merge_status, id) INCLUDE (state_id) WHERE merge_status <> 'merged';
CREATE TRIGGER merge_requests_loose_fk_trigger AFTER DELETE ON merge_requests REFERENCING OLD TABLE AS old_table
  FOR EACH STATEMENT EXECUTE FUNCTION insert_into_loose_foreign_keys_deleted_records();
CREATE TABLE integrations (id bigserial PRIMARY KEY, project_id {integration_project_id} REFERENCES projects ON DELETE CASCADE,
  active boolean DEFAULT false NOT NULL, type_new text, created_at timestamp);
CREATE UNIQUE INDEX index_integrations_on_project_id_and_type_new_unique ON integrations (project_id, type_new);
CREATE INDEX index_integrations_on_project_and_type_new_where_inherit_null ON integrations (project_id, type_new) WHERE active;
CREATE TRIGGER trigger_has_external_wiki_on_insert AFTER INSERT ON integrations FOR EACH ROW
  WHEN (NEW.active = true AND NEW.type_new = 'Integrations::ExternalWiki' AND NEW.project_id IS NOT NULL)
  EXECUTE FUNCTION set_has_external_wiki();
CREATE TRIGGER trigger_has_external_wiki_on_update AFTER UPDATE ON integrations FOR EACH ROW
  WHEN (NEW.type_new = 'Integrations::ExternalWiki' AND OLD.active <> NEW.active AND NEW.project_id IS NOT NULL)
  EXECUTE FUNCTION set_has_external_wiki();
CREATE TRIGGER trigger_has_external_wiki_on_delete AFTER DELETE ON integrations FOR EACH ROW
  WHEN (OLD.type_new = 'Integrations::ExternalWiki' AND OLD.project_id IS NOT NULL) EXECUTE FUNCTION set_has_external_wiki();
""",
    "INSERT INTO users (username) SELECT 'u' || g FROM generate_series(1, 5) g; INSERT INTO namespaces (path) VALUES ('n');"
    "INSERT INTO projects (namespace_id) SELECT 1 FROM generate_series(1, 4);"
    "INSERT INTO events (project_id, author_id, target_id, created_at, updated_at, action, target_type)"
    " SELECT g % 4 + 1, g % 5 + 1, g, now(), now(), g % 9, 'Issue' FROM generate_series(1, 60) g;"
    "INSERT INTO merge_requests (target_branch, source_branch, author_id, target_project_id, iid)"
    " SELECT 'main', 'b' || g, 1, 1, g FROM generate_series(1, 20) g;"
    "INSERT INTO integrations (project_id, active, type_new) VALUES (1, true, 'Integrations::ExternalWiki'), (2, true, 'Jira')",
    (
        Change(
            "events_outgrow_int",
            (_change("events", "project_id", "bigint"), _change("events", "author_id", "bigint")),
            {"project_id": "integer", "author_id": "integer"},
            {"project_id": "bigint", "author_id": "bigint"},
        ),
        Change(
            "merge_status_is_text",
            (
                _change(
                    "merge_requests",
                    "merge_status",
                    "text",
                    up="merge_status",
                    down="merge_status",
                    default="'unchecked'",
                ),
            ),
            {"merge_status": "varchar DEFAULT 'unchecked'"},
            {"merge_status": "text DEFAULT 'unchecked'"},
        ),
        Change(
            "integrations_outgrow_int",
            (_change("integrations", "project_id", "bigint"),),
            {"integration_project_id": "integer"},
            {"integration_project_id": "bigint"},
        ),
    ),
)

ZULIP = Project(
    "zulip",
    """
CREATE TABLE fts_update_log (id serial PRIMARY KEY, message_id integer NOT NULL);
CREATE FUNCTION append_to_fts_update_log() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.fts_update_log (message_id) VALUES (NEW.id); RETURN NEW; END $$;
CREATE FUNCTION do_notify_fts_update_log() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NOTIFY fts_update_log; RETURN NEW; END $$;
CREATE TRIGGER fts_update_log_notify AFTER INSERT ON fts_update_log FOR EACH STATEMENT EXECUTE FUNCTION do_notify_fts_update_log();
CREATE TABLE zerver_recipient (id serial PRIMARY KEY, type_id integer NOT NULL, type smallint NOT NULL CHECK (type >= 0), UNIQUE (type, type_id));
CREATE TABLE zerver_userprofile (id serial PRIMARY KEY, email varchar(254) NOT NULL, delivery_email varchar(254) NOT NULL);
CREATE INDEX upper_userprofile_email_idx ON zerver_userprofile (upper(email::text));
CREATE TABLE zerver_message (
  id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, subject {subject} NOT NULL, content text NOT NULL, rendered_content text,
  rendered_content_version integer, date_sent timestamptz NOT NULL, edit_history text, has_attachment boolean NOT NULL,
  search_tsvector tsvector, realm_id {realm_id} NOT NULL, type smallint DEFAULT 1 NOT NULL CHECK (type >= 0),
  recipient_id integer NOT NULL, sender_id integer NOT NULL
) WITH (fillfactor = 90);
ALTER TABLE zerver_message ADD CONSTRAINT zerver_message_recipient_id_5a7b6f03_fk FOREIGN KEY (recipient_id)
  REFERENCES zerver_recipient DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE zerver_message ADD CONSTRAINT zerver_message_sender_id_77b89151_fk FOREIGN KEY (sender_id)
  REFERENCES zerver_userprofile DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX zerver_message_search_tsvector ON zerver_message USING gin (search_tsvector) WITH (fastupdate = off);
CREATE INDEX upper_subject_idx ON zerver_message (upper(subject::text));
CREATE INDEX zerver_message_realm_upper_subject ON zerver_message (realm_id, upper(subject::text), id DESC NULLS LAST);
CREATE INDEX zerver_message_realm_recipient_subject ON zerver_message (realm_id, recipient_id, subject, id DESC NULLS LAST);
CREATE INDEX zerver_message_realm_date_sent ON zerver_message (realm_id, date_sent);
CREATE STATISTICS zerver_message_realm_sender ON realm_id, sender_id, recipient_id FROM zerver_message;
CREATE TRIGGER zerver_message_update_search_tsvector_async BEFORE INSERT OR UPDATE OF subject, rendered_content ON zerver_message
  FOR EACH ROW EXECUTE FUNCTION append_to_fts_update_log();
CREATE TABLE zerver_usermessage (id bigserial PRIMARY KEY, flags {flags} NOT NULL, message_id integer NOT NULL, user_profile_id integer NOT NULL,
  CONSTRAINT zerver_usermessage_user_profile_id_message_id_uniq UNIQUE (user_profile_id, message_id));
ALTER TABLE zerver_usermessage ADD CONSTRAINT zerver_usermessage_message_id_fk FOREIGN KEY (message_id) REFERENCES zerver_message
  DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX zerver_usermessage_starred_message_id ON zerver_usermessage (user_profile_id, message_id) WHERE (flags & 2) <> 0;
CREATE INDEX zerver_usermessage_wildcard_mentioned_message_id ON zerver_usermessage (user_profile_id, message_id) WHERE (flags & 8) <> 0 OR (flags & 16) <> 0;
CREATE INDEX zerver_usermessage_unread_message_id ON zerver_usermessage (user_profile_id, message_id) WHERE (flags & 1) = 0;
CREATE INDEX zerver_usermessage_any_mentioned ON zerver_usermessage (user_profile_id, flags, message_id DESC) WHERE (flags & 104) <> 0;
""",
    "INSERT INTO zerver_recipient (type_id, type) SELECT g, 1 FROM generate_series(1, 3) g;"
    "INSERT INTO zerver_userprofile (email, delivery_email) SELECT 'e' || g, 'e' || g FROM generate_series(1, 4) g;"
    "INSERT INTO zerver_message (subject, content, date_sent, has_attachment, realm_id, recipient_id, sender_id)"
    " SELECT 's' || g, 'c', now(), false, 1, g % 3 + 1, g % 4 + 1 FROM generate_series(1, 40) g;"
    "INSERT INTO zerver_usermessage (flags, message_id, user_profile_id) SELECT g % 128, g, 1 FROM generate_series(1, 40) g",
    (
        Change(
            "longer_topics",
            (_change("zerver_message", "subject", "varchar(100)"),),
            {"subject": "varchar(60)"},
            {"subject": "varchar(100)"},
        ),
        Change(
            "more_flags",
            (_change("zerver_usermessage", "flags", "bigint"),),
            {"flags": "integer"},
            {"flags": "bigint"},
        ),
        Change(
            "more_realms",
            (_change("zerver_message", "realm_id", "bigint"),),
            {"realm_id": "integer"},
            {"realm_id": "bigint"},
        ),
    ),
)

DISCOURSE = Project(
    "discourse",
    """
CREATE TABLE categories (id serial PRIMARY KEY, name varchar(50) NOT NULL, allow_badges boolean DEFAULT true NOT NULL, read_restricted boolean DEFAULT false NOT NULL);
CREATE UNIQUE INDEX unique_index_categories_on_name ON categories (COALESCE(NULLIF(id, 1), 0), name);
CREATE TABLE topics (
  id serial PRIMARY KEY, title varchar NOT NULL, fancy_title varchar, created_at {created_at} NOT NULL, bumped_at timestamp NOT NULL,
  views {views} DEFAULT 0 NOT NULL, posts_count integer DEFAULT 0 NOT NULL, user_id integer, like_count integer DEFAULT 0 NOT NULL,
  category_id integer, visible boolean DEFAULT true NOT NULL, archetype varchar DEFAULT 'regular' NOT NULL, deleted_at timestamp,
  pinned_at timestamp, percent_rank double precision DEFAULT 1.0 NOT NULL, word_count integer, subtype varchar,
  CONSTRAINT has_category_id CHECK (category_id IS NOT NULL OR archetype <> 'regular'),
  CONSTRAINT pm_has_no_category CHECK (category_id IS NULL OR archetype <> 'private_message'),
  CONSTRAINT views_count_up CHECK (views >= 0) NO INHERIT
);
CREATE INDEX idx_topics_front_page ON topics (deleted_at, visible, archetype, category_id, id);
CREATE INDEX idx_topics_user_id_deleted_at ON topics (user_id) WHERE deleted_at IS NULL;
CREATE INDEX index_topics_on_created_at_and_visible ON topics (created_at, visible) WHERE deleted_at IS NULL AND archetype <> 'private_message';
CREATE INDEX index_topics_on_lower_title ON topics (lower(title::text));
CREATE INDEX index_topics_on_timestamps_private ON topics (bumped_at, created_at, views) WHERE deleted_at IS NULL AND archetype = 'private_message';
CREATE TABLE posts (
  id serial PRIMARY KEY, user_id integer, topic_id integer NOT NULL, post_number integer NOT NULL, raw text NOT NULL, cooked text NOT NULL,
  created_at timestamp NOT NULL, updated_at timestamp NOT NULL, reply_to_post_number integer, reply_count integer DEFAULT 0 NOT NULL,
  deleted_at timestamp, like_count {like_count} DEFAULT 0 NOT NULL, score double precision, post_type integer DEFAULT 1 NOT NULL,
  sort_order integer, hidden boolean DEFAULT false NOT NULL, wiki boolean DEFAULT false NOT NULL, via_email boolean DEFAULT false NOT NULL,
  raw_email text, locale varchar(20)
);
COMMENT ON COLUMN posts.like_count IS 'as counted, not as shown';
CREATE UNIQUE INDEX index_posts_on_topic_id_and_post_number ON posts (topic_id, post_number);
CREATE INDEX idx_posts_deleted_posts ON posts (topic_id, post_number) WHERE deleted_at IS NOT NULL;
CREATE INDEX idx_posts_user_id_deleted_at ON posts (user_id) WHERE deleted_at IS NULL;
CREATE INDEX index_posts_user_and_likes ON posts (user_id, like_count DESC, created_at DESC) WHERE post_number > 1;
CREATE VIEW badge_posts AS
  SELECT p.id, p.user_id, p.topic_id, p.post_number, p.raw, p.cooked, p.created_at, p.reply_count, p.like_count, p.score, p.post_type
  FROM posts p JOIN topics t ON t.id = p.topic_id JOIN categories c ON c.id = t.category_id
  WHERE c.allow_badges AND p.deleted_at IS NULL AND t.deleted_at IS NULL AND NOT c.read_restricted AND t.visible AND p.post_type = ANY (ARRAY[1, 2, 3]);
CREATE VIEW liked_topics AS SELECT t.id, t.title, t.views, sum(p.like_count) AS likes, max(t.created_at) AS since
  FROM topics t LEFT JOIN badge_posts p ON p.topic_id = t.id GROUP BY t.id HAVING sum(p.like_count) > 0;
CREATE FUNCTION raise_topics_readonly() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'Discourse: like_count in topics is readonly'; END $$;
CREATE TRIGGER topics_like_count_readonly BEFORE INSERT OR UPDATE OF like_count ON topics FOR EACH ROW
  WHEN (NEW.like_count < 0) EXECUTE FUNCTION raise_topics_readonly();
""",
    "INSERT INTO categories (name) VALUES ('a'), ('b');"
    "INSERT INTO topics (title, created_at, bumped_at, category_id, views)"
    " SELECT 't' || g, timestamp '2024-01-01' + g * interval '1 day', now(), g % 2 + 1, g FROM generate_series(1, 30) g;"
    "INSERT INTO posts (topic_id, post_number, raw, cooked, created_at, updated_at, like_count)"
    " SELECT g % 30 + 1, g, 'r', 'c', now(), now(), g % 7 FROM generate_series(1, 60) g",
    (
        Change(
            "likes_outgrow_int",
            (_change("posts", "like_count", "bigint"),),
            {"like_count": "integer"},
            {"like_count": "bigint"},
        ),
        Change(
            "topics_know_their_zone",
            (_change("topics", "created_at", "timestamptz", **_UTC),),
            {"created_at": "timestamp"},
            {"created_at": "timestamptz"},
        ),
        Change(
            "views_outgrow_int",
            (_change("topics", "views", "bigint"),),
            {"views": "integer"},
            {"views": "bigint"},
        ),
    ),
)

PROJECTS = (MASTODON, GITLAB, ZULIP, DISCOURSE)
