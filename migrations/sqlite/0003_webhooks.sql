-- See migrations/postgres/0003_webhooks.sql.

create index webhook_deliveries_queue on webhook_deliveries (webhook_id, next_attempt_at) where status = 'pending';
drop index webhook_deliveries_due;
create index webhook_deliveries_listing on webhook_deliveries (webhook_id, id desc);

create table webhook_recoveries (
    id blob primary key not null,
    webhook_id blob not null references app_webhooks (id) on delete cascade,
    app_id text not null,
    since integer not null,
    position integer not null,
    until_offset integer not null,
    queued integer not null default 0,
    finished_at integer,
    created_at integer not null
) strict;
create index webhook_recoveries_open on webhook_recoveries (created_at) where finished_at is null;
create index webhook_recoveries_webhook on webhook_recoveries (webhook_id, created_at desc);

insert into hub_meta (key, value) values ('webhook_revision', '1') on conflict do nothing;
