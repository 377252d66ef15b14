package mcpauth.tests;

import java.security.MessageDigest;
import java.security.Principal;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.UUID;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.http.HttpStatus;
import org.springframework.security.authentication.UsernamePasswordAuthenticationToken;
import org.springframework.security.oauth2.core.AuthorizationGrantType;
import org.springframework.security.oauth2.core.ClientAuthenticationMethod;
import org.springframework.security.oauth2.core.OAuth2AccessToken;
import org.springframework.security.oauth2.jose.jws.SignatureAlgorithm;
import org.springframework.security.oauth2.server.authorization.OAuth2Authorization;
import org.springframework.security.oauth2.server.authorization.OAuth2AuthorizationService;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClient;
import org.springframework.security.oauth2.server.authorization.settings.ClientSettings;
import org.springframework.security.oauth2.server.authorization.settings.TokenSettings;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/**
 * What tests do here, each with `Authorization: Bearer SECRET` but for the keys, which the server itself fetches:
 *
 * POST /tests/clients                   registers a client, or changes what it is registered with
 * GET  /tests/clients/{id}/requests     what it was granted: `event`, `method`, `grant`
 * GET  /tests/clients/{id}/keys         its public keys
 * POST /tests/users/{user}/token        an access token of a user, as a front end would have it: `client`
 */
@RestController
public class ClientAdministration {
    private static final Duration LIFETIME = Duration.ofMinutes(10);

    /** `subject`: of a certificate, by RFC 4514; `keys`: a JWK set; `algorithm`: of its assertions. */
    record Registration(String id, String method, String grant, String secret, String subject, Object keys,
            String algorithm, boolean certificateBound) {}

    private final Clients clients;
    private final OAuth2AuthorizationService authorizations;
    private final String plain;
    private final String expected;

    ClientAdministration(Clients clients, OAuth2AuthorizationService authorizations,
            @Value("${tests.plain-port}") int port, @Value("${tests.secret}") String secret) {
        this.clients = clients;
        this.authorizations = authorizations;
        this.plain = "http://127.0.0.1:" + port;
        this.expected = "Bearer " + secret;
    }

    @PostMapping("/tests/clients")
    Map<String, String> register(@RequestHeader("Authorization") String caller, @RequestBody Registration asked) {
        check(caller);
        var settings = ClientSettings.builder();
        if (asked.keys() != null) {
            clients.setKeys(asked.id(), asked.keys());
            settings.jwkSetUrl(plain + "/tests/clients/" + asked.id() + "/keys");
        }
        if (asked.algorithm() != null) {
            settings.tokenEndpointAuthenticationSigningAlgorithm(SignatureAlgorithm.from(asked.algorithm()));
        }
        if (asked.subject() != null) {
            settings.x509CertificateSubjectDN(asked.subject());
        }
        // Each time another identifier: the server keeps what it knows of the keys by it.
        var client = RegisteredClient.withId(UUID.randomUUID().toString())
                .clientId(asked.id())
                .clientAuthenticationMethod(new ClientAuthenticationMethod(asked.method()))
                .authorizationGrantType(AuthorizationGrantType.CLIENT_CREDENTIALS)
                .authorizationGrantType(new AuthorizationGrantType(asked.grant()))
                .clientSettings(settings.build())
                .tokenSettings(TokenSettings.builder()
                        .accessTokenTimeToLive(LIFETIME)
                        .x509CertificateBoundAccessTokens(asked.certificateBound())
                        .build());
        if (asked.secret() != null) {
            client.clientSecret("{noop}" + asked.secret());
        }
        clients.save(client.build());
        return Map.of("id", asked.id());
    }

    @GetMapping("/tests/clients/{id}/requests")
    List<Map<String, String>> requests(@RequestHeader("Authorization") String caller, @PathVariable("id") String id) {
        check(caller);
        return clients.records(id);
    }

    @GetMapping("/tests/clients/{id}/keys")
    Object keys(@PathVariable("id") String id) {
        return clients.keys(id);
    }

    @PostMapping("/tests/users/{user}/token")
    Map<String, String> userToken(@RequestHeader("Authorization") String caller, @PathVariable("user") String user,
            @RequestBody Map<String, String> asked) {
        check(caller);
        var now = Instant.now();
        var token = new OAuth2AccessToken(
                OAuth2AccessToken.TokenType.BEARER, "user-" + UUID.randomUUID(), now, now.plus(LIFETIME));
        authorizations.save(OAuth2Authorization.withRegisteredClient(clients.findByClientId(asked.get("client")))
                .principalName(user)
                .authorizationGrantType(AuthorizationGrantType.AUTHORIZATION_CODE)
                .attribute(Principal.class.getName(),
                        UsernamePasswordAuthenticationToken.authenticated(user, null, List.of()))
                .accessToken(token)
                .build());
        return Map.of("token", token.getTokenValue());
    }

    private void check(String caller) {
        if (!MessageDigest.isEqual(caller.getBytes(), expected.getBytes())) {
            throw new ResponseStatusException(HttpStatus.UNAUTHORIZED);
        }
    }
}
