-- No query asks for it, and with ten million events stored it costs a fifth of the publish rate (benches/README.md).
drop index platform_events_data;
