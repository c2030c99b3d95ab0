// Publishes a good and a bad event with the types that openapi-typescript makes, and prints the results.
import createClient from "openapi-fetch";
import type { components, paths } from "./hub.js";

declare const process: { env: Record<string, string> };

const event = (event_type: string): components["schemas"]["EventInput"] => ({
  user_id: "ada", event_category: "session", event_type, entity_type: "session", entity_id: "s-1", event_data: { n: 1 },
});
const hub = createClient<paths>({ baseUrl: process.env.URL!, headers: { Authorization: `Bearer ${process.env.KEY}` } });
const { data, error } = await hub.POST("/api/v1/apps/{app_id}/events/batch", {
  params: { path: { app_id: process.env.APP! } },
  body: { events: [event("started"), event("Bad Type")] },
});
if (error) throw new Error(error.detail);
for (const result of data.events)
  console.log(result.event_id !== undefined ? `published at ${result.offset}` : `rejected ${result.code} ${result.details?.[0]?.field}`);
