package mcpauth.tests;

import java.util.Map;

import org.springframework.security.oauth2.server.authorization.InMemoryOAuth2AuthorizationService;
import org.springframework.security.oauth2.server.authorization.OAuth2Authorization;
import org.springframework.security.oauth2.server.authorization.OAuth2AuthorizationService;
import org.springframework.security.oauth2.server.authorization.OAuth2TokenType;
import org.springframework.stereotype.Component;

/** What was issued, in memory, with a record of what was revoked. */
@Component
public class Authorizations implements OAuth2AuthorizationService {
    private final OAuth2AuthorizationService inner = new InMemoryOAuth2AuthorizationService();
    private final Clients clients;

    Authorizations(Clients clients) {
        this.clients = clients;
    }

    @Override
    public void save(OAuth2Authorization authorization) {
        inner.save(authorization);
        if (authorization.getAccessToken() != null && authorization.getAccessToken().isInvalidated()) {
            var client = clients.findById(authorization.getRegisteredClientId());
            clients.record(client.getClientId(), Map.of("event", "revoked"));
        }
    }

    @Override
    public void remove(OAuth2Authorization authorization) {
        inner.remove(authorization);
    }

    @Override
    public OAuth2Authorization findById(String id) {
        return inner.findById(id);
    }

    @Override
    public OAuth2Authorization findByToken(String token, OAuth2TokenType type) {
        return inner.findByToken(token, type);
    }
}
