-- The nodes of one hub, as the store sees them: whether each of them tells the others what it commits. A node that is cut
-- off from the bus still writes here, so the others know that they have to look for themselves.

create table nodes (
    node_id uuid primary key,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    on_bus boolean not null,
    connections integer not null check (connections >= 0),
    users integer not null check (users >= 0)
);
comment on table nodes is 'Nodes that serve this store. Each renews its row every second and deletes it when it stops.';
comment on column nodes.on_bus is 'Whether it hears, and is heard by, the others over Redis.';
comment on column nodes.connections is 'Connection places taken there.';
comment on column nodes.users is 'Users online there.';

alter table nodes enable row level security;
create policy service on nodes to oriva_hub_service using (true) with check (true);
grant select, insert, update, delete on nodes to oriva_hub_service;
