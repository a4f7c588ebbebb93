//! Every bad token there is, and the good ones beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use data_encoding::BASE64URL_NOPAD;
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const RSA_PEM: &str = include_str!("testdata/rsa.pem");
/// Signed by the private half of that key, which is gone; good until 2100.
const RSA_TOKEN: &str = include_str!("testdata/rsa.jwt");
const JWKS: &str = include_str!("testdata/jwks.json");

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn file(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// A token with any header and claims, signed by HS256 with any bytes.
fn token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("Bearer {text}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
}

fn hs256(claims: &Value) -> String {
    token(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

fn auth(dir: &Path) -> Auth {
    let keys =
        vec![KeySource::Secret(file(dir, "secret", SECRET)), KeySource::Rsa(file(dir, "rsa", RSA_PEM.as_bytes()))];
    Auth::new(AuthConfig { keys, issuer: Some("us".to_owned()), audience: Some("presence".to_owned()) }).unwrap()
}

fn good() -> Value {
    json!({"sub": "ann", "exp": now() + 60, "iss": "us", "aud": "presence"})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = good();
    claims[name] = value.into();
    claims
}

#[test]
fn a_good_token_says_who_and_no_bad_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let check = |header: &str| auth.check(Some(header));
    let ann = Who { sub: "ann".to_owned(), any: false };
    assert_eq!(check(&hs256(&good())), Ok(ann.clone()));
    assert_eq!(check(&hs256(&with("exp", now() - 29))), Ok(ann.clone()), "within the leeway");
    assert_eq!(check(&hs256(&with("nbf", now() + 29))), Ok(ann.clone()), "within the leeway");
    assert_eq!(check(&hs256(&good()).replace("Bearer", "bearer")), Ok(ann));

    let header = |value: Value| token(&value, &good(), SECRET);
    let unsigned = header(json!({"alg": "none"}));
    let unsigned = unsigned.rsplit_once('.').unwrap().0.to_owned() + ".";
    let no = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        hs256(&claims)
    };
    for (what, bad, denied) in [
        ("alg none, not signed", unsigned, Denied::Invalid),
        ("alg none, signed", header(json!({"alg": "none"})), Denied::Invalid),
        ("alg NONE", header(json!({"alg": "NONE"})), Denied::Invalid),
        (
            "HS signed with the RS public key",
            token(&json!({"alg": "HS256"}), &good(), RSA_PEM.as_bytes()),
            Denied::Invalid,
        ),
        ("HS said to be RS", header(json!({"alg": "RS256"})), Denied::Invalid),
        ("another HS", header(json!({"alg": "HS512"})), Denied::Invalid),
        (
            "another secret",
            token(&json!({"alg": "HS256"}), &good(), b"fedcba9876543210fedcba9876543210"),
            Denied::Invalid,
        ),
        ("expired", hs256(&with("exp", now() - 31)), Denied::Expired),
        ("never expires", no("exp"), Denied::Invalid),
        ("not yet valid", hs256(&with("nbf", now() + 60)), Denied::Invalid),
        ("wrong audience", hs256(&with("aud", "others")), Denied::Invalid),
        ("no audience", no("aud"), Denied::Invalid),
        ("wrong issuer", hs256(&with("iss", "them")), Denied::Invalid),
        ("no issuer", no("iss"), Denied::Invalid),
        ("no user", no("sub"), Denied::Invalid),
        ("a megabyte", hs256(&with("x", "y".repeat(1 << 20))), Denied::Invalid),
        ("nothing of a token", "Bearer x".to_owned(), Denied::Invalid),
        ("three dots", "Bearer ...".to_owned(), Denied::Invalid),
        ("another scheme", "Basic YTpi".to_owned(), Denied::Missing),
        ("nothing", String::new(), Denied::Missing),
    ] {
        assert_eq!(check(&bad), Err(denied), "{what}");
    }
    assert_eq!(auth.check(None), Err(Denied::Missing));
    // A `kid` is a name to compare: it opens no file.
    let path = json!({"alg": "HS256", "kid": "../../../../dev/null"});
    assert_eq!(check(&token(&path, &good(), b"")), Err(Denied::Invalid));
    assert_eq!(check(&token(&path, &good(), SECRET)).map(|who| who.sub), Ok("ann".to_owned()));
}

#[test]
fn only_a_scope_writes_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let who = |scope: Value| auth.check(Some(&hs256(&with("scope", scope)))).unwrap();
    assert_eq!(who(json!("presence:read")).may_write("ann"), Ok(()));
    assert_eq!(who(json!("presence:read")).may_write("bob"), Err(Denied::OfAnother));
    assert_eq!(who(json!("presence:write:any2 x")).may_write("bob"), Err(Denied::OfAnother));
    assert_eq!(who(json!("x presence:write:any")).may_write("bob"), Ok(()));
    assert_eq!(who(json!(["presence:write:any"])).may_write("bob"), Ok(()));
}

#[test]
fn each_kind_of_key_checks_its_own_kind_of_signature() {
    let dir = tempfile::tempdir().unwrap();
    let of = |keys| Auth::new(AuthConfig { keys, issuer: None, audience: None }).unwrap();
    let bearer = format!("Bearer {}", RSA_TOKEN.trim());
    let ann = |auth: &Auth, header: &str| auth.check(Some(header)).map(|who| who.sub);
    let rsa = of(vec![KeySource::Rsa(file(dir.path(), "rsa", RSA_PEM.as_bytes()))]);
    assert_eq!(ann(&rsa, &bearer), Ok("ann".to_owned()));
    let jwks = of(vec![KeySource::Jwks(file(dir.path(), "jwks", JWKS.as_bytes()))]);
    assert_eq!(ann(&jwks, &bearer), Ok("ann".to_owned()));
    let broken = bearer.replace("eyJ0eXAi", "eyJ0eXBi");
    assert_eq!(ann(&rsa, &format!("{}x", &broken[..broken.len() - 1])), Err(Denied::Invalid));

    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pair = signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.serialize_der()).unwrap();
    let ed = of(vec![KeySource::Ed25519(file(dir.path(), "ed", key.public_key_pem().as_bytes()))]);
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(json!({"alg": "EdDSA"})), part(json!({"sub": "ann", "exp": now() + 9})));
    let signed = |tag: &[u8]| format!("Bearer {text}.{}", BASE64URL_NOPAD.encode(tag));
    assert_eq!(ann(&ed, &signed(pair.sign(text.as_bytes()).as_ref())), Ok("ann".to_owned()));
    assert_eq!(ann(&ed, &signed(&[0; 64])), Err(Denied::Invalid));
}

#[test]
fn a_key_of_a_set_checks_only_what_it_is_meant_for() {
    let dir = tempfile::tempdir().unwrap();
    let bearer = format!("Bearer {}", RSA_TOKEN.trim());
    // A second key, for another token, so that the set is never empty.
    let other = json!({"kty": "OKP", "crv": "Ed25519", "kid": "other", "x": BASE64URL_NOPAD.encode(&[7; 32])});
    for (name, value, good) in [
        ("use", json!("sig"), true),
        ("use", json!("enc"), false),
        ("use", json!("anything"), false),
        ("use", Value::Null, true),
        ("alg", json!("RS256"), true),
        ("alg", json!("RS512"), false),
        ("alg", json!("PS256"), false),
        ("alg", json!("RSA-OAEP"), false),
        ("alg", json!("HS256"), false),
        ("alg", json!("new"), false),
        ("key_ops", json!(["verify"]), true),
        ("key_ops", json!(["encrypt", "wrapKey"]), false),
    ] {
        let mut set: Value = serde_json::from_str(JWKS).unwrap();
        let key = set["keys"][0].as_object_mut().unwrap();
        match &value {
            Value::Null => drop(key.remove(name)),
            value => drop(key.insert(name.to_owned(), value.clone())),
        }
        set["keys"].as_array_mut().unwrap().push(other.clone());
        let keys = vec![KeySource::Jwks(file(dir.path(), "jwks", set.to_string().as_bytes()))];
        let auth = Auth::new(AuthConfig { keys, issuer: None, audience: None }).unwrap();
        assert_eq!(auth.check(Some(&bearer)).is_ok(), good, "{name} {value}");
    }
}

#[test]
fn a_file_that_was_caught_half_written_is_read_again_though_its_time_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "jwks", JWKS.as_bytes());
    let auth = Auth::new(AuthConfig { keys: vec![KeySource::Jwks(path.clone())], ..AuthConfig::default() }).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    let write = |content: &str| {
        fs::write(&path, content).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    };
    let another =
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": BASE64URL_NOPAD.encode(&[7; 32])}]}).to_string();
    let bearer = format!("Bearer {}", RSA_TOKEN.trim());
    // As long as the whole, and no JSON yet.
    write(&" ".repeat(another.len()));
    assert!(auth.refresh().is_err());
    assert!(auth.check(Some(&bearer)).is_ok(), "as before");
    write(&another);
    assert!(auth.refresh().is_ok());
    assert!(auth.check(Some(&bearer)).is_err(), "the key is another");
    assert!(auth.refresh().is_ok());
}

#[test]
fn keys_are_read_again_when_a_file_changes_and_kept_when_it_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "secret", SECRET);
    let auth = Auth::new(AuthConfig { keys: vec![KeySource::Secret(path.clone())], ..AuthConfig::default() }).unwrap();
    let next = b"another secret of thirty-two bytes or more";
    let claims = json!({"sub": "ann", "exp": now() + 60});
    let of_next = token(&json!({"alg": "HS256"}), &claims, next);
    assert_eq!(auth.check(Some(&of_next)), Err(Denied::Invalid));
    let replace = |content: &[u8], secs: u64| {
        fs::write(&path, content).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(secs);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        auth.refresh()
    };
    assert!(replace(next, 10).is_ok());
    assert!(auth.check(Some(&of_next)).is_ok());
    assert!(replace(b"short", 20).is_err());
    assert!(auth.check(Some(&of_next)).is_ok(), "as before");
}

#[test]
fn a_token_that_is_signed_here_is_believed_here() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let signed = sign(SECRET, "ann", now() + 9, Writes::Any, &auth.config).unwrap();
    assert_eq!(auth.check(Some(&format!("Bearer {signed}"))).unwrap().may_write("bob"), Ok(()));
}
