//! Who asks: bearer tokens, impersonation, and the review resources that tell about them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use ring::hmac;
use serde_json::{Value, json};

use crate::api::Api;
use crate::authorize::{Ask, Verdict, What, authorize, rules, verdict};
use crate::error::{ApiError, FieldError, Result};
use crate::meta;

/// An authenticated client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    fn admin() -> User {
        User::new("kubernetes-admin", vec!["system:masters".to_owned()])
    }

    fn new(name: &str, mut groups: Vec<String>) -> User {
        groups.push("system:authenticated".to_owned());
        User { name: name.to_owned(), uid: String::new(), groups }
    }

    fn service_account(namespace: &str, name: &str, uid: &str) -> User {
        User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({"username": self.name, "uid": self.uid, "groups": self.groups})
    }
}

/// The tokens that this server takes: the administrator's, and those it issued to ServiceAccounts (signed, so
/// that nothing need be remembered).
pub(crate) struct Tokens {
    admin: String,
    key: hmac::Key,
}

impl Tokens {
    pub(crate) fn new() -> Result<Tokens> {
        Ok(Tokens {
            admin: meta::hex(&meta::random::<24>()?),
            key: hmac::Key::new(hmac::HMAC_SHA256, &meta::random::<32>()?),
        })
    }

    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// The user of a token.
    pub(crate) fn user(&self, token: &str) -> Option<User> {
        // Compared by keyed hash, so that the time taken says nothing about the token.
        let tag = hmac::sign(&self.key, token.as_bytes());
        if hmac::verify(&self.key, self.admin.as_bytes(), tag.as_ref()).is_ok() {
            return Some(User::admin());
        }
        self.signed(token)
    }

    /// A token for a ServiceAccount, valid for so many seconds; and when it ends.
    pub(crate) fn issue(&self, namespace: &str, name: &str, uid: &str, seconds: i64) -> (String, String) {
        let expires = meta::after(seconds);
        // The form of a JWT: some clients look into their own.
        let now = meta::epoch();
        let claims = json!({
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": ["https://kubernetes.default.svc.cluster.local"],
            "exp": now.saturating_add(seconds), "iat": now, "nbf": now,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        });
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "typ": "JWT"}).to_string());
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        (format!("{signed}.{signature}"), expires)
    }

    fn signed(&self, token: &str) -> Option<User> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let (_, payload) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        if claims["exp"].as_i64()? <= meta::epoch() {
            return None;
        }
        let whose = &claims["kubernetes.io"];
        Some(User::service_account(
            whose["namespace"].as_str()?,
            whose["serviceaccount"]["name"].as_str()?,
            whose["serviceaccount"]["uid"].as_str()?,
        ))
    }
}

/// The token in an `Authorization` header.
pub(crate) fn bearer(header: Option<&str>) -> Option<&str> {
    let header = header?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Answers a review object: the body of the request with its status filled in.
pub(crate) fn review(api: &Api, user: &User, kind: &str, mut body: Value) -> Value {
    let status = match kind {
        "SelfSubjectReview" => json!({"userInfo": user.to_json()}),
        "TokenReview" => match body["spec"]["token"].as_str().and_then(|token| api.user(token)) {
            Some(user) => json!({"authenticated": true, "user": user.to_json()}),
            None => json!({"user": {}, "error": "invalid bearer token"}),
        },
        "SelfSubjectRulesReview" => rules(api, user, body["spec"]["namespace"].as_str().unwrap_or_default()),
        "SelfSubjectAccessReview" => access(api, user, &body["spec"]),
        // SubjectAccessReview and LocalSubjectAccessReview.
        _ => {
            let groups = body["spec"]["groups"].as_array().into_iter().flatten();
            let subject = User {
                name: body["spec"]["user"].as_str().unwrap_or_default().to_owned(),
                uid: String::new(),
                groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
            };
            access(api, &subject, &body["spec"])
        }
    };
    let object = meta::map_of(&mut body);
    object.insert("status".to_owned(), status);
    if object.get("metadata").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        object.remove("metadata");
    }
    body
}

/// The status of an access review about this user.
fn access(api: &Api, user: &User, spec: &Value) -> Value {
    let of = |attributes: &'static str, name: &str| spec[attributes][name].as_str().unwrap_or_default();
    let what = if spec["nonResourceAttributes"].is_object() {
        Ask {
            verb: of("nonResourceAttributes", "verb"),
            what: What::Path(of("nonResourceAttributes", "path")),
        }
    } else {
        let of = |name: &str| of("resourceAttributes", name);
        let mut resource = of("resource").to_owned();
        if !of("subresource").is_empty() {
            resource = format!("{resource}/{}", of("subresource"));
        }
        let what = What::Resource {
            group: of("group"),
            resource,
            namespace: of("namespace"),
            name: of("name").to_owned(),
        };
        Ask { verb: of("verb"), what }
    };
    match verdict(api, user, &what) {
        Verdict::Allowed(by) if by.is_empty() => json!({"allowed": true}),
        Verdict::Allowed(by) => json!({"allowed": true, "reason": by}),
        Verdict::Denied(missing) if missing.is_empty() => json!({"allowed": false}),
        Verdict::Denied(missing) => {
            json!({"allowed": false, "reason": format!("RBAC: {}", missing.join(", "))})
        }
    }
}

/// Who a request is made as: by its `Impersonate-User` and `Impersonate-Group`, as `kubectl --as` sends them, else the user itself.
///
/// # Errors
/// The user may not, or names groups without a user.
pub(crate) fn impersonated(api: &Api, user: User, headers: &HeaderMap) -> Result<User> {
    let named = || headers.iter().filter(|(name, _)| name.as_str().starts_with("impersonate-"));
    // Whoever says that they act as somebody else must never act as themselves.
    if let Some((name, _)) = named().find(|(_, value)| value.to_str().is_err()) {
        return Err(ApiError::bad_request(format!("the header {name} is no text")));
    }
    let texts = |name: &str| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let groups: Vec<String> = texts("impersonate-group").map(str::to_owned).collect();
    let Some(name) = texts("impersonate-user").next().filter(|name| !name.is_empty()) else {
        return match named().next() {
            None => Ok(user),
            Some((name, _)) => {
                Err(ApiError::bad_request(format!("the header {name} without a user to impersonate")))
            }
        };
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let ask = |resource: &str, namespace: &str, name: &str| {
        let (group, resource, name) = ("", resource.to_owned(), name.to_owned());
        let what = What::Resource { group, resource, namespace, name };
        authorize(api, &user, &Ask { verb: "impersonate", what })
    };
    match account {
        Some((namespace, account)) => ask("serviceaccounts", namespace, account)?,
        None => ask("users", "", name)?,
    }
    for group in &groups {
        ask("groups", "", group)?;
    }
    match account {
        Some((namespace, account)) if groups.is_empty() => Ok(User::service_account(namespace, account, "")),
        _ => Ok(User::new(name, groups)),
    }
}

/// What a review must say to be answered.
///
/// # Errors
/// It asks of nothing, or of nobody.
pub(crate) fn check_review(kind: &str, body: &Value) -> Result<()> {
    const GROUP: &str = "authorization.k8s.io";
    let spec = &body["spec"];
    let text = |name: &str| spec[name].as_str().unwrap_or_default();
    if kind == "TokenReview" && text("token").is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    if !kind.ends_with("AccessReview") {
        return Ok(());
    }
    let mut errors = Vec::new();
    if spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid("spec.resourceAttributes", &spec["resourceAttributes"], why));
    }
    let nobody = text("user").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if kind != "SelfSubjectAccessReview" && nobody {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &"".into(), why));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(GROUP, "", "", &errors)) }
}

#[cfg(test)]
mod tests {
    use super::{Tokens, bearer};

    #[test]
    fn only_real_tokens_are_taken() {
        let tokens = Tokens::new().unwrap();
        let (issued, _) = tokens.issue("shop", "web", "u1", 60);
        assert_eq!(tokens.user(tokens.admin()).unwrap().name, "kubernetes-admin");
        assert_eq!(tokens.user(&issued).unwrap().name, "system:serviceaccount:shop:web");
        let (late, _) = tokens.issue("shop", "web", "u1", -1);
        let other = Tokens::new().unwrap();
        for token in [late.as_str(), other.admin(), &other.issue("a", "b", "c", 60).0, "", ".", "x.y"] {
            assert_eq!(tokens.user(token), None, "{token}");
        }
        assert_eq!(bearer(Some("Bearer abc")), Some("abc"));
        assert_eq!(bearer(Some("bearer abc")), Some("abc"));
        for header in [None, Some("Basic eDp5"), Some("Bearer"), Some("")] {
            assert_eq!(bearer(header), None, "{header:?}");
        }
    }
}
