-- The audit log grows with every notification: what is past retention goes where events and notifications go.
create table audit_log_archive (like audit_log including defaults including comments);
alter table audit_log_archive add primary key (id);
comment on table audit_log_archive is 'The audit log past retention; cold, not read by the API.';
alter table audit_log_archive enable row level security;
create policy service on audit_log_archive to oriva_hub_service using (true) with check (true);
grant select, insert, update, delete on audit_log_archive to oriva_hub_service;
alter table archive_exports drop constraint archive_exports_table_name_check;
alter table archive_exports add constraint archive_exports_table_name_check
    check (table_name in ('events', 'notifications', 'notification_states', 'audit_log'));
-- It is read by its ids, which are in the order of time.
drop index audit_log_at;
