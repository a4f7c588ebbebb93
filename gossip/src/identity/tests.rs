use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, date_time_ymd};

use super::authority::leaf;
use super::*;

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn load(files: &PemFiles) -> Result<Identity, IdentityError> {
    Identity::from_files(&files.ca, &files.cert, &files.key)
}

#[test]
fn an_identity_survives_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = DevAuthority::new("test").unwrap().write(&node("fra_1"), dir.path()).unwrap();
    let identity = load(&files).unwrap();
    assert_eq!(identity.node(), &node("fra_1"));
    assert!(identity.not_after() > SystemTime::now());
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = DevAuthority::new("test").unwrap().write(&node("a"), dir.path()).unwrap();
    for mode in [0o640, 0o604] {
        fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
        let error = load(&files).unwrap_err();
        assert!(matches!(error, IdentityError::KeyMode { mode: found, .. } if found == mode), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}

#[test]
fn another_authoritys_certificate_is_refused() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [ours, theirs] =
        [&dirs[0], &dirs[1]].map(|dir| DevAuthority::new("test").unwrap().write(&node("a"), dir.path()).unwrap());
    let error = load(&PemFiles { ca: theirs.ca, ..ours }).unwrap_err();
    assert!(matches!(error, IdentityError::OtherAuthority { .. }), "{error}");
}

#[test]
fn another_certificates_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = DevAuthority::new("test").unwrap();
    let [a, b] = ["a", "b"].map(|name| authority.write(&node(name), dir.path()).unwrap());
    let error = load(&PemFiles { key: b.key, ..a }).unwrap_err();
    assert!(matches!(error, IdentityError::KeyMismatch { .. }), "{error}");
}

#[test]
fn what_is_not_in_force_yet_is_refused_and_what_is_over_is_known_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let authority = DevAuthority::new("test").unwrap();
    let mut params = leaf(&node("a")).unwrap();
    params.not_after = date_time_ymd(2020, 1, 1);
    let lapsed = load(&authority.write_leaf(params, "old", dir.path()).unwrap()).unwrap();
    assert_eq!(lapsed.validity().stage(SystemTime::now()), Stage::Over);
    // For another term only what is in force is taken.
    let error = lapsed.renew(lapsed.certificate()).unwrap_err();
    assert!(matches!(error, IdentityError::Expired { .. }), "{error}");
    let mut params = leaf(&node("a")).unwrap();
    params.not_before = date_time_ymd(3000, 1, 1);
    let error = load(&authority.write_leaf(params, "early", dir.path()).unwrap()).unwrap_err();
    assert!(matches!(error, IdentityError::NotYet { .. }), "{error}");
}

#[test]
fn a_certificate_names_exactly_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let authority = DevAuthority::new("test").unwrap();
    for (names, expected) in [(vec![], "holds 0"), (vec!["a", "b"], "holds 2"), (vec!["A.example"], "names no node")] {
        let mut params = leaf(&node("x")).unwrap();
        params.subject_alt_names = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
            .unwrap()
            .subject_alt_names;
        let error = load(&authority.write_leaf(params, "odd", dir.path()).unwrap()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn every_file_that_is_missing_or_no_pem_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = DevAuthority::new("test").unwrap().write(&node("a"), dir.path()).unwrap();
    let junk = dir.path().join("junk.pem");
    fs::write(&junk, "junk").unwrap();
    fs::set_permissions(&junk, Permissions::from_mode(0o600)).unwrap();
    let absent = dir.path().join("absent.pem");
    for wrong in [&junk, &absent] {
        for files in [
            PemFiles { ca: wrong.clone(), ..files.clone() },
            PemFiles { cert: wrong.clone(), ..files.clone() },
            PemFiles { key: wrong.clone(), ..files.clone() },
        ] {
            let error = load(&files).unwrap_err();
            assert!(error.to_string().contains(wrong.to_str().unwrap()), "{error}");
        }
    }
}
