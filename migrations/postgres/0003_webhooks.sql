-- Webhooks at work: a queue a webhook, so that one endpoint's thousands are not in another's way; and recoveries, which
-- are jobs that outlive a restart.

-- Due deliveries of one webhook. An index over all webhooks would be walked past every row of a dead one.
create index webhook_deliveries_queue on webhook_deliveries (webhook_id, next_attempt_at) where status = 'pending';
drop index webhook_deliveries_due;
-- The newest first: ids are UUIDv7.
create index webhook_deliveries_listing on webhook_deliveries (webhook_id, id desc);

create table webhook_recoveries (
    id uuid primary key,
    webhook_id uuid not null references app_webhooks on delete cascade,
    app_id text not null,
    since timestamptz not null,
    position bigint not null,
    until_offset bigint not null,
    queued bigint not null default 0,
    finished_at timestamptz,
    created_at timestamptz not null default now()
);
comment on table webhook_recoveries is 'Jobs that queue again what a webhook missed since a moment.';
comment on column webhook_recoveries.position is 'The app stream''s offset up to which events were looked at.';
comment on column webhook_recoveries.until_offset is 'The end of the app''s stream when the job was made.';
create index webhook_recoveries_open on webhook_recoveries (created_at) where finished_at is null;
create index webhook_recoveries_webhook on webhook_recoveries (webhook_id, created_at desc);

alter table webhook_recoveries enable row level security;
create policy service on webhook_recoveries to oriva_hub_service using (true) with check (true);
create policy tenant_app on webhook_recoveries to oriva_hub_tenant
    using (app_id = nullif(current_setting('oriva.app_id', true), ''));
grant select, insert, update, delete on webhook_recoveries to oriva_hub_service, oriva_hub_tenant;

-- Rises with every change of what webhooks subscribe to. It is read in each transaction that writes events, so a node
-- never matches by what another node has changed.
insert into hub_meta (key, value) values ('webhook_revision', '1') on conflict do nothing;
