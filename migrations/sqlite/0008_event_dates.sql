-- See migrations/postgres/0011_event_dates.sql.
create index platform_events_app_dates on platform_events (app_id, created_at, app_offset);
drop index platform_events_app_created;
