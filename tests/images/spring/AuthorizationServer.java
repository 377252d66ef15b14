package mcpauth.tests;

import java.util.List;
import java.util.Map;

import org.apache.catalina.connector.Connector;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.web.embedded.tomcat.TomcatServletWebServerFactory;
import org.springframework.boot.web.server.WebServerFactoryCustomizer;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.core.annotation.Order;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.config.annotation.web.configurers.AbstractHttpConfigurer;
import org.springframework.security.oauth2.server.authorization.OAuth2TokenType;
import org.springframework.security.oauth2.server.authorization.authentication.OAuth2AuthorizationGrantAuthenticationToken;
import org.springframework.security.oauth2.server.authorization.authentication.OAuth2ClientAuthenticationToken;
import org.springframework.security.oauth2.server.authorization.authentication.OAuth2TokenExchangeAuthenticationToken;
import org.springframework.security.oauth2.server.authorization.config.annotation.web.configurers.OAuth2AuthorizationServerConfigurer;
import org.springframework.security.oauth2.server.authorization.settings.AuthorizationServerSettings;
import org.springframework.security.oauth2.server.authorization.token.JwtEncodingContext;
import org.springframework.security.oauth2.server.authorization.token.OAuth2TokenCustomizer;
import org.springframework.security.web.SecurityFilterChain;

/**
 * The third real authorization server: Spring Authorization Server as its guide sets it up, with clients in memory. What
 * applications add to it is added here: the audience of a token is the `resource` of the request (RFC 8707), which the
 * server itself reads and does nothing with. Clients are administered by {@link ClientAdministration}.
 */
@Configuration
@EnableAutoConfiguration
@Import({ClientAdministration.class, Clients.class, Authorizations.class})
public class AuthorizationServer {
    public static void main(String[] arguments) {
        SpringApplication.run(AuthorizationServer.class, arguments);
    }

    @Bean
    @Order(1)
    SecurityFilterChain tokens(HttpSecurity http) throws Exception {
        var server = OAuth2AuthorizationServerConfigurer.authorizationServer();
        return http.securityMatcher(server.getEndpointsMatcher())
                .with(server, Customizer.withDefaults())
                .authorizeHttpRequests(requests -> requests.anyRequest().authenticated())
                .build();
    }

    /** The administration looks at its callers itself. */
    @Bean
    @Order(2)
    SecurityFilterChain administration(HttpSecurity http) throws Exception {
        return http.csrf(AbstractHttpConfigurer::disable)
                .authorizeHttpRequests(requests -> requests.anyRequest().permitAll())
                .build();
    }

    @Bean
    AuthorizationServerSettings settings(@Value("${tests.issuer}") String issuer) {
        return AuthorizationServerSettings.builder().issuer(issuer).build();
    }

    /** Plain HTTP on loopback beside the server's https: the server fetches the keys of its clients there. */
    @Bean
    WebServerFactoryCustomizer<TomcatServletWebServerFactory> plain(@Value("${tests.plain-port}") int port) {
        return factory -> {
            var connector = new Connector();
            connector.setPort(port);
            connector.setProperty("address", "127.0.0.1");
            factory.addAdditionalTomcatConnectors(connector);
        };
    }

    @Bean
    OAuth2TokenCustomizer<JwtEncodingContext> accessTokens(Clients clients) {
        return context -> {
            if (!OAuth2TokenType.ACCESS_TOKEN.equals(context.getTokenType())) {
                return;
            }
            OAuth2AuthorizationGrantAuthenticationToken grant = context.getAuthorizationGrant();
            var resource = resource(grant);
            if (resource != null) {
                context.getClaims().audience(List.of(resource));
            }
            var client = (OAuth2ClientAuthenticationToken) grant.getPrincipal();
            clients.record(client.getRegisteredClient().getClientId(), Map.of(
                    "event", "issued",
                    "method", client.getClientAuthenticationMethod().getValue(),
                    "grant", grant.getGrantType().getValue()));
        };
    }

    private static String resource(OAuth2AuthorizationGrantAuthenticationToken grant) {
        if (grant instanceof OAuth2TokenExchangeAuthenticationToken exchange) {
            return exchange.getResources().stream().findFirst().orElse(null);
        }
        return (String) grant.getAdditionalParameters().get("resource");
    }
}
