package mcpauth.tests;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;

import org.springframework.security.oauth2.server.authorization.client.RegisteredClient;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClientRepository;
import org.springframework.stereotype.Component;

/** Clients, their public keys, and what each was granted. The server's own repository in memory takes no change of a client. */
@Component
public class Clients implements RegisteredClientRepository {
    private final Map<String, RegisteredClient> byId = new ConcurrentHashMap<>();
    private final Map<String, RegisteredClient> byClientId = new ConcurrentHashMap<>();
    private final Map<String, Object> keys = new ConcurrentHashMap<>();
    private final Map<String, List<Map<String, String>>> records = new ConcurrentHashMap<>();

    @Override
    public void save(RegisteredClient client) {
        byId.put(client.getId(), client);
        byClientId.put(client.getClientId(), client);
    }

    @Override
    public RegisteredClient findById(String id) {
        return byId.get(id);
    }

    @Override
    public RegisteredClient findByClientId(String clientId) {
        return byClientId.get(clientId);
    }

    /** A JWK set (RFC 7517), as it was given. */
    void setKeys(String clientId, Object set) {
        keys.put(clientId, set);
    }

    Object keys(String clientId) {
        return keys.getOrDefault(clientId, Map.of("keys", List.of()));
    }

    void record(String clientId, Map<String, String> event) {
        records.computeIfAbsent(clientId, any -> new CopyOnWriteArrayList<>()).add(event);
    }

    List<Map<String, String>> records(String clientId) {
        return records.getOrDefault(clientId, List.of());
    }
}
