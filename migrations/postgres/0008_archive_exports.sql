-- Cold rows that leave for an object store: which, and under which name. One export a table at a time, by whichever node.
create table archive_exports (
    table_name text primary key check (table_name in ('events', 'notifications', 'notification_states')),
    id uuid not null unique,
    ids bytea not null,
    created_at timestamptz not null default now()
);
comment on table archive_exports is 'Cold rows on their way to an object store.';
comment on column archive_exports.id is 'The name of the object.';
comment on column archive_exports.ids is 'The rows, 16 bytes an id.';
alter table archive_exports enable row level security;
create policy service on archive_exports to oriva_hub_service using (true) with check (true);
grant select, insert, update, delete on archive_exports to oriva_hub_service;
