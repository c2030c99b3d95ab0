-- Cold rows that leave for an object store: which, and under which name. One export a table at a time.
create table archive_exports (
    table_name text primary key not null check (table_name in ('events', 'notifications', 'notification_states')),
    id blob not null unique,
    ids blob not null,
    created_at integer not null default (unixepoch('subsec') * 1000)
) strict;
