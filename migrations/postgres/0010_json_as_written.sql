-- jsonb rewrites what it stores: numbers get other digits, keys another order, and 1e308 becomes 309 characters. json
-- keeps the text. Each table is written anew, under a lock; docs/OPERATING.md says how long that takes.
alter table apps
    alter column limits drop default,
    alter column limits type json,
    alter column limits set default '{}';
alter table platform_events
    alter column event_data drop default,
    alter column event_data type json,
    alter column event_data set default '{}';
alter table platform_notifications
    alter column context_data drop default,
    alter column context_data type json,
    alter column context_data set default '{}';
alter table webhook_delivery_log
    alter column payload type json,
    alter column response_headers type json;
alter table platform_events_archive
    alter column event_data drop default,
    alter column event_data type json,
    alter column event_data set default '{}';
alter table platform_notifications_archive
    alter column context_data drop default,
    alter column context_data type json,
    alter column context_data set default '{}';
comment on column platform_events.event_data is 'As the client wrote it.';
comment on column platform_notifications.context_data is 'As the client wrote it.';
