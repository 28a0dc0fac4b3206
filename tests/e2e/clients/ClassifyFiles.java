import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Sends a picture to URLs with the default settings, which offer HTTP/2, and prints the answers. */
public class ClassifyFiles {
  public static void main(String[] arguments) throws Exception {
    var key = arguments[0];
    var file = Path.of(arguments[1]);
    var bytes = Files.readAllBytes(file);
    for (var url : List.of(arguments).subList(2, arguments.length)) {
      var client = HttpClient.newHttpClient();
      send(client, url, key, BodyPublishers.ofFile(file), false);
      send(client, url, key, BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes)), false);
      send(client, url, key, BodyPublishers.ofByteArray(bytes), true);
    }
  }

  static void send(HttpClient client, String url, String key, BodyPublisher body, boolean expects)
      throws Exception {
    var request = HttpRequest.newBuilder(URI.create(url))
        .header("Content-Type", "image/png").header("X-API-Key", key)
        .expectContinue(expects).POST(body).build();
    var answer = client.send(request, BodyHandlers.ofString());
    System.out.println(answer.statusCode() + " " + answer.body());
  }
}
