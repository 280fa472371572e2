//! References as Docker, containerd and Kubernetes read them: what they become, and what is none.

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is written, and its normal form; `@` stands for a digest.
const NORMAL: &[(&str, &str)] = &[
    // Short names and Docker's hub in all its spellings.
    ("busybox", "docker.io/library/busybox:latest"),
    ("busybox:1.36", "docker.io/library/busybox:1.36"),
    ("library/busybox", "docker.io/library/busybox:latest"),
    ("docker.io/busybox", "docker.io/library/busybox:latest"),
    ("docker.io/library/busybox", "docker.io/library/busybox:latest"),
    ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
    ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
    ("index.docker.io/a/b", "docker.io/a/b:latest"),
    ("docker.io/a/b/c", "docker.io/a/b/c:latest"),
    ("user/app", "docker.io/user/app:latest"),
    ("user/group/app:v1", "docker.io/user/group/app:v1"),
    ("0", "docker.io/library/0:latest"),
    ("library/library", "docker.io/library/library:latest"),
    // A first component is a host with a dot, a colon or a capital, or if it is localhost.
    ("localhost", "docker.io/library/localhost:latest"),
    ("localhost/app", "localhost/app:latest"),
    ("localhost:5000/app:v1", "localhost:5000/app:v1"),
    ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
    ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
    ("registry.k8s.io/sig/pause:3.10", "registry.k8s.io/sig/pause:3.10"),
    ("host/app", "docker.io/host/app:latest"),
    ("host:80/app", "host:80/app:latest"),
    ("host.:80/app", "!host"),
    ("LOCAL/app", "LOCAL/app:latest"),
    ("Registry.Example.ORG/app", "Registry.Example.ORG/app:latest"),
    ("docker.io:443/app", "docker.io:443/app:latest"),
    ("xn--n3h.com/app:T_ag.1-x", "xn--n3h.com/app:T_ag.1-x"),
    ("a-b.c-d.example/x", "a-b.c-d.example/x:latest"),
    // IPv6 stands in brackets.
    ("[::1]/app", "[::1]/app:latest"),
    ("[::1]:5000/app", "[::1]:5000/app:latest"),
    ("[2001:db8::A]:5000/app:v1", "[2001:db8::A]:5000/app:v1"),
    ("[2001:db8::1]", "!character"),
    ("[::1]5000/app", "!port"),
    ("[::1]:/app", "!port"),
    ("[::1%eth0]/app", "!IPv6"),
    ("[]/app.x", "!character"),
    ("[::1/a", "!bracket"),
    ("[zz:]/a", "!IPv6"),
    // A colon in front of a slash is a port, behind the last one it starts a tag.
    ("app:5000", "docker.io/library/app:5000"),
    ("host:5000/app:5000", "host:5000/app:5000"),
    ("host.com:65535/a", "host.com:65535/a:latest"),
    ("host.com:65536/a", "!65535"),
    ("host.com:/a", "!port"),
    ("host.com:x/a", "!port"),
    ("a:b:c", "!character"),
    ("a/b:c/d", "!character"),
    // Digests, with and without a tag beside them.
    ("busybox@", "docker.io/library/busybox@"),
    ("quay.io/x/y:1@", "quay.io/x/y:1@"),
    ("host:5000/x@", "host:5000/x@"),
    ("[::1]:5000/x:1@", "[::1]:5000/x:1@"),
    ("busybox:@", "!tag is empty"),
    ("@", "!empty component"),
    ("busybox@@", "!digest"),
    // The path: lower case, separators only between letters and digits.
    ("a__b/c-d--e.f_g", "docker.io/a__b/c-d--e.f_g:latest"),
    ("a-----b", "docker.io/library/a-----b:latest"),
    ("a.b/c_d/e__f", "a.b/c_d/e__f:latest"),
    ("Busybox", "!lower case"),
    ("user/App", "!lower case"),
    ("host:5000/Upper/lower", "!lower case"),
    ("HOST", "!lower case"),
    ("a//b", "!empty component"),
    ("/a", "!empty component"),
    ("a/", "!empty component"),
    ("a..b", "!separators"),
    ("a._b", "!separators"),
    ("a___b", "!separators"),
    ("-a", "!separators"),
    ("a-", "!separators"),
    ("_a", "!separators"),
    (".a", "!separators"),
    ("../a", "!host"),
    ("./a", "!host"),
    ("a/../b", "!separators"),
    ("aa/as$f", "!character"),
    ("m\u{fc}nchen", "!character"),
    ("a\u{0}b", "!character"),
    ("a b", "!character"),
    (" a", "!character"),
    ("a\n", "!character"),
    ("a?b", "!character"),
    ("a%2fb", "!character"),
    // The host.
    ("host..com/a", "!host"),
    ("-host.com/a", "!host"),
    ("host-.com/a", "!host"),
    ("ho_st.com/a", "!host"),
    ("http://host.com/a", "!scheme"),
    ("docker://busybox", "!scheme"),
    // Tags.
    ("busybox:_x", "docker.io/library/busybox:_x"),
    ("busybox:X.y-Z_0", "docker.io/library/busybox:X.y-Z_0"),
    ("busybox:", "!tag is empty"),
    ("busybox:.x", "!starts"),
    ("busybox:-x", "!starts"),
    ("busybox:a b", "!character"),
    ("busybox:a+b", "!character"),
    (":tag", "!empty component"),
    ("", "!empty"),
];

#[test]
fn the_table() {
    let at = format!("@sha256:{HEX}");
    for (written, normal) in NORMAL {
        let full = written.replace('@', &at);
        match (full.parse::<Reference>(), normal.strip_prefix('!')) {
            (Ok(reference), None) => {
                assert_eq!(reference.to_string(), normal.replace('@', &at), "{written}");
                assert_eq!(reference, reference.to_string().parse().unwrap(), "normal form of {written} is not stable");
            }
            (Err(why), Some(part)) => {
                assert!(why.to_string().contains(part), "{written:?}: {why}");
                assert!(!why.to_string().chars().any(|c| c.is_control()), "{why}");
                assert_eq!(why.kind(), Kind::InvalidArgument);
            }
            (got, _) => panic!("{written:?}: expected {normal}, not {got:?}"),
        }
    }
}

#[test]
fn digests_are_checked_to_the_letter() {
    let good = format!("a@sha256:{HEX}");
    assert!(good.parse::<Reference>().is_ok());
    assert!(format!("a@sha512:{HEX}{HEX}").parse::<Reference>().is_ok());
    for bad in [
        "a@sha256:abc".to_owned(),
        format!("a@sha256:{}", HEX.to_uppercase()),
        format!("a@sha256:{HEX}0"),
        format!("a@sha512:{HEX}"),
        format!("a@md5:{}", &HEX[..32]),
        format!("a@{HEX}"),
        format!("a@sha256:{}", "g".repeat(64)),
        format!("{good}:tag"),
        format!("{good}@sha256:{HEX}"),
        format!("{good}/b"),
        "a@:".into(),
    ] {
        assert!(bad.parse::<Reference>().is_err(), "{bad} was accepted");
    }
}

/// An image id is looked up, never pulled: 64 hex digits are no name, 63 or 65 are.
#[test]
fn ids_are_no_names() {
    assert!(HEX.parse::<Reference>().unwrap_err().to_string().contains("image id"));
    assert!(HEX[1..].parse::<Reference>().is_ok());
    assert!(format!("{HEX}0").parse::<Reference>().is_ok());
    assert!(format!("sha256:{HEX}").parse::<Reference>().is_ok(), "a repository named sha256 can have such a tag");
    assert!(format!("user/{HEX}").parse::<Reference>().is_ok());
}

#[test]
fn lengths() {
    let path = |n: usize| format!("quay.io/{}", "b".repeat(n)).parse::<Reference>().is_ok();
    assert!(path(255) && !path(256));
    let tag = |n: usize| format!("a:{}", "t".repeat(n)).parse::<Reference>().is_ok();
    assert!(tag(128) && !tag(129));
    assert!("b".repeat(247).parse::<Reference>().is_ok(), "library/ counts");
    assert!("b".repeat(248).parse::<Reference>().is_err());
}

#[test]
fn parts() {
    let r: Reference = format!("quay.io:443/x/y:1@sha256:{HEX}").parse().unwrap();
    assert_eq!((r.host(), r.path(), r.tag()), ("quay.io:443", "x/y", Some("1")));
    assert_eq!(r.wanted(), format!("sha256:{HEX}"));
    assert_eq!(r.tagged().as_deref(), Some("quay.io:443/x/y:1"));
    assert_eq!(r.digested(r.digest().unwrap()), format!("quay.io:443/x/y@sha256:{HEX}"));
}
