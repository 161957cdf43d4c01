//! Who asks: bearer tokens, and the review resources that tell about them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::api::Api;
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
        User {
            name: "kubernetes-admin".to_owned(),
            uid: String::new(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        }
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
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        // Everybody who is authenticated may do everything: RBAC objects are stored, not enforced.
        _ => json!({"allowed": true}),
    };
    let object = meta::map_of(&mut body);
    object.insert("status".to_owned(), status);
    if object.get("metadata").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        object.remove("metadata");
    }
    body
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
