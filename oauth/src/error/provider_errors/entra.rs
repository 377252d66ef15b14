//! Errors of Microsoft Entra, which have numbers.

/// An error of Microsoft Entra by its number.
/// <https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes>
struct EntraError {
    numbers: &'static [&'static str],
    hint: &'static str,
}

const ENTRA: &[EntraError] = &[
    EntraError {
        numbers: &["90002", "900023", "900021"],
        hint: "Entra knows no such tenant: issuer (or tokenUrl) has to hold the Directory (tenant) ID of the app \
               registration",
    },
    EntraError {
        numbers: &["700016"],
        hint: "clientId is no app registration of this tenant: it is the Application (client) ID, and not an object ID \
               or the ID of a secret, and issuer has to name the tenant where the app is registered",
    },
    EntraError {
        numbers: &["7000215"],
        hint: "clientSecretRef has to hold the Value of the client secret, which Entra shows once, and not its Secret \
               ID: make a new secret of this app registration if the value is lost",
    },
    EntraError {
        numbers: &["7000222"],
        hint: "the client secret has ended: make a new one in the app registration, Certificates & secrets, and write \
               its Value into the Secret of clientSecretRef",
    },
    EntraError {
        numbers: &["7000218", "7000216"],
        hint: "Entra saw no secret, certificate or assertion of this client: state one in clientAuthentication, and where a \
               proxy takes the Authorization header off, by the method ClientSecretPost",
    },
    EntraError {
        numbers: &["700027"],
        hint: "the certificate is not at the app registration: upload tls.crt of \
               clientAuthentication.privateKeyJwt.certificateRef there, Certificates & secrets, Certificates, or name \
               the Secret of the one that is there",
    },
    EntraError {
        numbers: &["700024"],
        hint: "Entra read an assertion that is not valid now: check the operator's clock, and with an assertion of a \
               Secret its exp",
    },
    EntraError {
        numbers: &["70021", "700211", "700212", "700213"],
        hint: "no federated credential of the app registration fits the ServiceAccount: its issuer is the cluster's, \
               its subject system:serviceaccount:NAMESPACE:NAME and its audience api://AzureADTokenExchange (or \
               workloadIdentity.audience), each to the letter, a slash at the end of the issuer included",
    },
    EntraError {
        numbers: &["1002012", "70011", "900144"],
        hint: "a machine's scope ends in /.default: with provider: Entra state audience (the Application ID URI of the \
               MCP server's app registration), or else scopes: [AUDIENCE/.default]",
    },
    EntraError {
        numbers: &["500011", "50001", "650057"],
        hint: "this tenant has no application of that name: audience (or scopes without /.default) is the Application \
               ID URI of the MCP server's app registration, Expose an API, which needs an enterprise application in \
               this tenant",
    },
    EntraError {
        numbers: &["50105", "501051"],
        hint: "give this client an app role of the MCP server's application, API permissions, Application permissions, \
               and Grant admin consent; or turn off Assignment required at its enterprise application",
    },
    EntraError {
        numbers: &["65001", "65004"],
        hint: "grant admin consent: app registration of this client, API permissions, Grant admin consent",
    },
    EntraError {
        numbers: &["50013", "500131", "500133", "5001305"],
        hint: "the user's token is not one for this client, or is over: its aud has to be this clientId, so let the \
               user's front end request it for this client (subjectHeader says which header has it)",
    },
    EntraError {
        numbers: &["50076", "50079", "53003"],
        hint: "Conditional Access demands more than a token (a second factor, a place, a device): let its policies \
               allow this client, or the user sign in anew where the policy can be met",
    },
    EntraError {
        numbers: &["7000112"],
        hint: "the application is disabled in this tenant: its enterprise application, Properties, Enabled for users \
               to sign in",
    },
    EntraError {
        numbers: &["901002", "9010010"],
        hint: "this endpoint takes no resource: set provider: Entra, or resource: \"\"",
    },
];

/// What to check, by the number in a description.
pub fn hint(description: &str) -> Option<&'static str> {
    let (_, number) = description.split_once("AADSTS")?;
    let end = number.find(|character: char| !character.is_ascii_digit());
    let number = &number[..end.unwrap_or(number.len())];
    let known = ENTRA.iter().find(|known| known.numbers.contains(&number));
    known.map(|known| known.hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_known_by_its_whole_number() {
        let of_client = hint("AADSTS50013: Assertion failed").unwrap();
        assert!(of_client.contains("clientId"), "{of_client}");
        assert!(hint("AADSTS50013").is_some());
        for other in ["AADSTS5001", "AADSTS500139: other", "AADSTS", "50013: x"] {
            assert_eq!(hint(other), None, "{other}");
        }
    }
}
