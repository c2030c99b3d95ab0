-- See migrations/postgres/0013_webhook_payload.sql.
alter table app_webhooks add column payload text not null default 'full' check (payload in ('full', 'no_data', 'thin'));
