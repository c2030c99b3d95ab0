-- What became of archived notifications goes with them.
create table notification_state_archive (like notification_state including defaults including comments);
alter table notification_state_archive add primary key (id);
comment on table notification_state_archive is 'What became of notifications past retention; cold, not read by the API.';
alter table notification_state_archive enable row level security;
create policy service on notification_state_archive to oriva_hub_service using (true) with check (true);
grant select, insert, update, delete on notification_state_archive to oriva_hub_service;
