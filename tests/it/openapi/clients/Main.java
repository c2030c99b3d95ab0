import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.EventsApi;
import org.openapitools.client.model.*;

/** Publishes a good and a bad event with the client that openapi-generator makes, and prints the results. */
public class Main {
  static EventInput event(String type) {
    return new EventInput(new EventForUser().userId("ada").eventCategory(Category.SESSION).eventType(type)
        .entityType("session").entityId("s-1").eventData(Map.of("n", 1)));
  }

  public static void main(String[] arguments) throws Exception {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("URL"));
    client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + System.getenv("KEY")));
    PublishedEvents results = new EventsApi(client).publishEvents(System.getenv("APP"),
        new EventBatch().events(List.of(event("started"), event("Bad Type"))), null);
    for (EventResult result : results.getEvents())
      System.out.println(result.getEventId() != null ? "published at " + result.getOffset()
          : "rejected " + result.getCode() + " " + result.getDetails().get(0).getField());
  }
}
