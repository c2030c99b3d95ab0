-- The audit log grows with every notification: what is past retention goes where events and notifications go.
create table audit_log_archive (
    id blob primary key not null,
    actor text,
    action text,
    subject text,
    app_id text,
    ip_address text,
    at integer
) strict;
create table archive_exports_of_any_table (
    table_name text primary key not null check (table_name in ('events', 'notifications', 'notification_states', 'audit_log')),
    id blob not null unique,
    ids blob not null,
    created_at integer not null default (unixepoch('subsec') * 1000)
) strict;
insert into archive_exports_of_any_table select * from archive_exports;
drop table archive_exports;
alter table archive_exports_of_any_table rename to archive_exports;
-- It is read by its ids, which are in the order of time.
drop index audit_log_at;
