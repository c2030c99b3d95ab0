// Publishes a good and a bad event with the client that openapi-generator makes, and prints the results.
package main

import (
	"context"
	"fmt"
	"os"

	"hub"
)

func event(kind string) hub.EventInput {
	event := hub.EventForUser{UserId: "ada", EventCategory: hub.SESSION, EventType: kind, EntityType: "session", EntityId: "s-1"}
	event.SetEventData(map[string]interface{}{"n": 1})
	return hub.EventForUserAsEventInput(&event)
}

func main() {
	configuration := hub.NewConfiguration()
	configuration.Servers = hub.ServerConfigurations{{URL: os.Getenv("URL")}}
	ctx := context.WithValue(context.Background(), hub.ContextAccessToken, os.Getenv("KEY"))
	batch := *hub.NewEventBatch([]hub.EventInput{event("started"), event("Bad Type")})
	results, _, err := hub.NewAPIClient(configuration).EventsAPI.PublishEvents(ctx, os.Getenv("APP")).EventBatch(batch).Execute()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, result := range results.Events {
		if result.EventId != nil {
			fmt.Println("published at", *result.Offset)
		} else {
			fmt.Println("rejected", *result.Code, result.Details[0].Field)
		}
	}
}
