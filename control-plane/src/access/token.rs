//! Service-account tokens: JWT (RFC 7519) signed with ES256 (RFC 7518), with the claims that Kubernetes gives bound
//! tokens: `kubernetes.io` has the namespace, the account and the pod or other object that the token dies with.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::KeyPair as _;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Signs and verifies.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    issuer: String,
    key_id: String,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) account_uid: String,
    pub(crate) audiences: Vec<String>,
    /// Seconds since 1970.
    pub(crate) issued: i64,
    pub(crate) expires: i64,
    /// `pod`, `node` or `secret`, with name and uid, if the token is bound to one.
    pub(crate) bound: Option<(String, String, String)>,
}

impl Signer {
    /// A signer from a PKCS#8 key in PEM.
    ///
    /// # Errors
    /// The key is no P-256 key.
    pub(crate) fn new(pem: &str, issuer: &str) -> Result<Self> {
        let fault = |why: &str| Error::internal("the service-account key cannot be used", why.to_owned());
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body.trim()).map_err(|_| fault("it is no PEM"))?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|e| fault(&e.to_string()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        let key_id = URL_SAFE_NO_PAD.encode(digest);
        Ok(Self { key, random, issuer: issuer.to_owned(), key_id })
    }

    /// Who signs; also the audience of tokens that name none.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token of claims.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String> {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.key_id});
        let mut own = json!({
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.account, "uid": claims.account_uid},
        });
        if let Some((kind, name, uid)) = &claims.bound {
            own[kind] = json!({"name": name, "uid": uid});
        }
        let body = json!({
            "iss": self.issuer, "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
            "aud": claims.audiences, "iat": claims.issued, "nbf": claims.issued, "exp": claims.expires,
            "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": own,
        });
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", text(&header), text(&body));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| Error::internal("sign a token", "the system has no randomness"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token of ours that is valid at `now` (seconds since 1970).
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, body) = signed.split_once('.')?;
        let json = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
        // The algorithm is ours to choose, never the token's.
        if json(header)?["alg"] != "ES256" {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        public.verify(signed.as_bytes(), &signature).ok()?;
        let body = json(body)?;
        let claims = claims_of(&body)?;
        let valid = body["iss"] == self.issuer.as_str() && claims.issued <= now + 60 && now < claims.expires;
        valid.then_some(claims)
    }
}

fn claims_of(body: &Value) -> Option<Claims> {
    let own = &body["kubernetes.io"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let bound = ["pod", "node", "secret"].into_iter().find_map(|kind| {
        let object = own.get(kind)?;
        Some((kind.to_owned(), text(&object["name"])?, text(&object["uid"])?))
    });
    let audiences = body["aud"].as_array()?.iter().filter_map(text).collect();
    Some(Claims {
        namespace: text(&own["namespace"])?,
        account: text(&own["serviceaccount"]["name"])?,
        account_uid: text(&own["serviceaccount"]["uid"])?,
        audiences,
        issued: body["iat"].as_i64()?,
        expires: body["exp"].as_i64()?,
        bound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate().expect("key");
        Signer::new(&key.serialize_pem(), "https://issuer").expect("signer")
    }

    fn claims() -> Claims {
        Claims {
            namespace: "ns".into(),
            account: "sa".into(),
            account_uid: "u".into(),
            audiences: vec!["a".into()],
            issued: 1000,
            expires: 2000,
            bound: Some(("pod".into(), "p".into(), "pu".into())),
        }
    }

    #[test]
    fn a_token_is_good_for_its_time() {
        let signer = signer();
        let token = signer.sign(&claims()).expect("signs");
        assert_eq!(signer.verify(&token, 1500), Some(claims()));
        assert_eq!(signer.verify(&token, 2000), None);
        assert_eq!(signer.verify(&token, 900), None);
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (ours, theirs) = (signer(), signer());
        assert!(ours.verify(&theirs.sign(&claims()).expect("signs"), 1500).is_none());
        let token = ours.sign(&claims()).expect("signs");
        let mut parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        parts[0] = &none;
        assert!(ours.verify(&parts.join("."), 1500).is_none());
        parts[2] = "";
        assert!(ours.verify(&parts.join("."), 1500).is_none());
        for text in ["", "a", "a.b", "a.b.c", "...."] {
            assert!(ours.verify(text, 1500).is_none(), "{text}");
        }
    }
}
