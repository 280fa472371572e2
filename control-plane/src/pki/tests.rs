//! What is issued, when it is issued again, and that a real TLS stack accepts it.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::decide::{Found, Reason, must_issue};
use super::*;

const DAY: u64 = 86_400;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("gantry-pki-{name}-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn day(n: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + n * DAY)
}

fn names(dns: &[&str], ips: &[&str]) -> Names {
    Names {
        dns: dns.iter().map(ToString::to_string).collect(),
        ips: ips.iter().map(|ip| ip.parse().expect("address")).collect(),
    }
}

#[test]
fn a_certificate_is_issued_for_exactly_these_reasons() {
    let wanted = Wanted::server("api", None, &names(&["A.example"], &["10.0.0.1", "fd00::1"]));
    let good = Found {
        common_name: "api".into(),
        organization: None,
        names: ["a.example", "10.0.0.1", "fd00::1"].map(String::from).into(),
        not_before: 0,
        not_after: 300,
        signed: true,
        key_fits: true,
    };
    let check = |found: &Found, now: i64| must_issue(Some(found), &wanted, now);
    assert_eq!(must_issue(None, &wanted, 0), Some(Reason::Missing));
    assert_eq!(check(&good, 0), None);
    assert_eq!(check(&good, 200), None);
    assert_eq!(check(&good, 201), Some(Reason::Expiring));
    assert_eq!(check(&good, -1), Some(Reason::NotYetValid));
    assert_eq!(check(&Found { signed: false, ..good.clone() }, 0), Some(Reason::OtherAuthority));
    assert_eq!(check(&Found { key_fits: false, ..good.clone() }, 0), Some(Reason::OtherKey));
    assert_eq!(check(&Found { common_name: "x".into(), ..good.clone() }, 0), Some(Reason::OtherSubject));
    assert_eq!(check(&Found { organization: Some("o".into()), ..good.clone() }, 0), Some(Reason::OtherSubject));
    assert_eq!(check(&Found { names: ["a.example".into()].into(), ..good.clone() }, 0), Some(Reason::OtherNames));
}

#[test]
fn a_second_start_changes_nothing_and_time_renews() {
    let dir = Scratch::new("renew");
    let api = names(&["localhost"], &["127.0.0.1"]);
    let first = ensure_at(&dir.0, &api, day(0)).expect("first");
    let again = ensure_at(&dir.0, &api, day(200)).expect("second");
    assert_eq!(first.serving.cert_pem, again.serving.cert_pem);
    assert_eq!(first.admin.key_pem, again.admin.key_pem);

    let renewed = ensure_at(&dir.0, &api, day(300)).expect("renewed");
    assert_ne!(first.serving.cert_pem, renewed.serving.cert_pem);
    assert_ne!(first.admin.cert_pem, renewed.admin.cert_pem);
    assert_eq!(first.ca_pem, renewed.ca_pem);
    assert_eq!(first.service_account.key_pem, renewed.service_account.key_pem);
}

#[test]
fn a_renewed_authority_still_vouches_for_what_it_signed() {
    let dir = Scratch::new("ca");
    let first = ensure_at(&dir.0, &names(&["localhost"], &[]), day(2400)).expect("first");
    let _ = std::fs::remove_file(dir.0.join("ca.crt"));
    let second = ensure_at(&dir.0, &names(&["localhost"], &[]), day(2401)).expect("second");
    assert_ne!(first.ca_pem, second.ca_pem);
    assert_eq!(first.admin.cert_pem, second.admin.cert_pem);
}

#[test]
fn new_names_and_a_lost_authority_issue_again() {
    let dir = Scratch::new("names");
    let first = ensure_at(&dir.0, &names(&["localhost"], &["127.0.0.1"]), day(0)).expect("first");
    let moved = ensure_at(&dir.0, &names(&["localhost"], &["10.1.2.3"]), day(0)).expect("moved");
    assert_ne!(first.serving.cert_pem, moved.serving.cert_pem);
    assert_eq!(first.admin.cert_pem, moved.admin.cert_pem);

    std::fs::remove_file(dir.0.join("ca.key")).expect("remove");
    let other = ensure_at(&dir.0, &names(&["localhost"], &["10.1.2.3"]), day(0)).expect("other");
    assert_ne!(moved.ca_pem, other.ca_pem);
    assert_ne!(moved.admin.cert_pem, other.admin.cert_pem);
}

#[test]
fn a_crash_between_key_and_certificate_heals() {
    let dir = Scratch::new("crash");
    let api = names(&["localhost"], &[]);
    let first = ensure_at(&dir.0, &api, day(0)).expect("first");
    std::fs::write(&first.admin.key_path, &first.serving.key_pem).expect("the key of another");
    let healed = ensure_at(&dir.0, &api, day(0)).expect("healed");
    assert_ne!(healed.admin.cert_pem, first.admin.cert_pem);

    std::fs::write(&healed.serving.cert_path, "half a certif").expect("torn");
    std::fs::write(&healed.admin.key_path, "").expect("empty");
    let healed = ensure_at(&dir.0, &api, day(0)).expect("healed again");
    assert!(healed.serving.cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(healed.admin.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn those_who_issue_side_by_side_agree() {
    let dir = Scratch::new("race");
    let api = names(&["localhost"], &["127.0.0.1"]);
    let one = |n: usize| {
        let pki = ensure(&dir.0, &api).expect("pki");
        let node = issue_node(&dir.0, "n1", &api).expect("node");
        (n, pki.ca_pem, pki.serving.cert_pem, pki.service_account.key_pem, node.client.cert_pem, node.client.key_pem)
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let one = &one;
                    move || one(n)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    for seen in &all {
        let same =
            (&seen.1, &seen.2, &seen.3, &seen.4, &seen.5) == (&all[0].1, &all[0].2, &all[0].3, &all[0].4, &all[0].5);
        assert!(same, "thread {} got another set", seen.0);
    }
}

#[test]
fn keys_are_for_their_owner_alone() {
    let dir = Scratch::new("modes");
    let pki = ensure(&dir.0, &names(&["localhost"], &[])).expect("pki");
    let node = issue_node(&dir.0, "n1", &names(&[], &["127.0.0.1"])).expect("node");
    let config = node.write_kubeconfig("https://127.0.0.1:6443").expect("kubeconfig");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for path in [&pki.admin.key_path, &pki.service_account.key_path, &node.client.key_path, &config] {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&dir.0), 0o700);
    assert_eq!(mode(&node.dir), 0o700);
    assert!(!format!("{pki:?}").contains("PRIVATE"));
}

#[test]
fn a_node_cannot_be_named_into_another_directory() {
    let dir = Scratch::new("evil");
    ensure(&dir.0, &Names::default()).expect("pki");
    for name in ["", "..", "../admin", "a/b", "a..b", "-a", "A", "a\n", "a:b"] {
        assert!(issue_node(&dir.0, name, &Names::default()).is_err(), "{name:?}");
    }
    issue_node(&dir.0, "node-1.example", &Names::default()).expect("a good name");
}

#[test]
fn the_kubeconfig_is_yaml_that_embeds_everything() {
    use base64::Engine;
    let text = kubeconfig("https://127.0.0.1:6443", "CA", &User { cert_pem: "CERT", key_pem: "KEY" });
    let yaml: serde_json::Value = serde_yaml_ng::from_str(&text).expect("yaml");
    assert_eq!(yaml["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(yaml["current-context"], yaml["contexts"][0]["name"]);
    let key = yaml["users"][0]["user"]["client-key-data"].as_str().expect("key");
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(key).expect("base64"), b"KEY");
}

/// A mutual TLS handshake in memory: the kubelet's client certificate against the API's serving one.
#[test]
fn tls_accepts_both_sides() {
    let dir = Scratch::new("tls");
    let pki = ensure(&dir.0, &names(&["localhost"], &["127.0.0.1"])).expect("pki");
    let node = issue_node(&dir.0, "n1", &Names::default()).expect("node");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem.as_bytes()).expect("ca")).expect("root");
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("verifier"));
    let (cert, key) = pair(&pki.serving);
    let server = server.with_single_cert(vec![cert], key).expect("server");
    let (cert, key) = pair(&node.client);
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![cert], key)
        .expect("client");
    for name in ["localhost", "127.0.0.1"] {
        let name = ServerName::try_from(name).expect("name");
        let mut client = rustls::ClientConnection::new(Arc::new(client.clone()), name).expect("client");
        let mut server = rustls::ServerConnection::new(Arc::new(server.clone())).expect("server");
        handshake(&mut client, &mut server);
        let shown = server.peer_certificates().expect("client certificate")[0].clone();
        let (_, shown) =
            x509_parser::parse_x509_certificate(&shown).map(|(r, c)| (r, c.subject().to_string())).expect("x509");
        assert_eq!(shown, "O=system:nodes, CN=system:node:n1");
    }
}

fn pair(identity: &Identity) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let cert = CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).expect("certificate");
    (cert, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("key"))
}

fn handshake(client: &mut rustls::ClientConnection, server: &mut rustls::ServerConnection) {
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("write");
        server.read_tls(&mut wire.as_slice()).expect("read");
        server.process_new_packets().expect("the server accepts");
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("write");
        client.read_tls(&mut wire.as_slice()).expect("read");
        client.process_new_packets().expect("the client accepts");
        if !client.is_handshaking() && !server.is_handshaking() {
            return;
        }
    }
    panic!("the handshake did not end");
}
