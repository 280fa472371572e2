//! Which key of a login file fits an image. Pure; the rules are Kubernetes' for image pull secrets (pkg/credentialprovider
//! keyring.go) and, where it goes further, containers-auth.json(5): `host[:port][/path]`, a `*` inside one label of the
//! host, a path that is a prefix of the repository, the longest match first.

/// The names under which Docker Hub's logins are written.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Splits a key into host with port and path: `https://index.docker.io/v1/` is `index.docker.io` and nothing.
fn split(key: &str) -> (&str, &str) {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = match bare.find('/') {
        Some(at) => (&bare[..at], bare[at + 1..].trim_end_matches('/')),
        None => (bare, ""),
    };
    let path = match path {
        "v1" | "v2" => "",
        other => other.strip_prefix("v1/").or_else(|| other.strip_prefix("v2/")).unwrap_or(other),
    };
    (host, path)
}

/// How well a key fits `host[:port]` and the repository; higher is better, `None` is not at all.
pub(super) fn fit(key: &str, host: &str, repository: &str) -> Option<(usize, usize, bool)> {
    let (of, path) = split(key);
    if !host_fits(of, host) || !repository.starts_with(path) {
        return None;
    }
    Some((path.len(), of.len(), of == host))
}

fn host_fits(pattern: &str, host: &str) -> bool {
    if HUB.contains(&host) && HUB.contains(&pattern) {
        return true;
    }
    let (own, port) = labels(pattern);
    let (wanted, wanted_port) = labels(host);
    port == wanted_port && own.len() == wanted.len() && own.iter().zip(&wanted).all(|(p, w)| glob(p, w))
}

fn labels(host: &str) -> (Vec<&str>, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && !port.contains(']') => (name.split('.').collect(), Some(port)),
        _ => (host.split('.').collect(), None),
    }
}

/// `*` any run, `?` any one character, as Go's `filepath.Match` inside one label; classes are not worth their code.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        for (key, host, repository, expect) in [
            ("quay.io", "quay.io", "a/b", true),
            ("https://quay.io", "quay.io", "a/b", true),
            ("https://quay.io/v2/", "quay.io", "a/b", true),
            ("quay.io/a", "quay.io", "a/b", true),
            ("quay.io/a/b", "quay.io", "a/b", true),
            ("quay.io/c", "quay.io", "a/b", false),
            ("*.quay.io", "x.quay.io", "a", true),
            ("*.quay.io", "quay.io", "a", false),
            ("*.quay.io", "x.y.quay.io", "a", false),
            ("*.*.quay.io", "x.y.quay.io", "a", true),
            ("pre*x.io", "prefix.io", "a", true),
            ("r?g.io", "reg.io", "a", true),
            ("*", "localhost", "a", true),
            ("quay.io:5000", "quay.io", "a", false),
            ("quay.io", "quay.io:5000", "a", false),
            ("*.io:5000", "quay.io:5000", "a", true),
            ("[::1]:5000", "[::1]:5000", "a", true),
            ("https://index.docker.io/v1/", "docker.io", "library/a", true),
            ("docker.io", "registry-1.docker.io", "library/a", true),
            ("docker.io/me", "docker.io", "library/a", false),
            ("evil.io", "quay.io", "a", false),
            ("", "quay.io", "a", false),
        ] {
            assert_eq!(fit(key, host, repository).is_some(), expect, "{key} {host} {repository}");
        }
    }

    #[test]
    fn the_longest_is_best() {
        let best = |keys: &[&'static str]| {
            keys.iter().copied().max_by_key(|key| fit(key, "x.quay.io", "team/app")).unwrap_or_default()
        };
        assert_eq!(best(&["*.quay.io", "x.quay.io", "x.quay.io/team", "x.quay.io/other"]), "x.quay.io/team");
        assert_eq!(best(&["*.quay.io/team/app", "x.quay.io/team"]), "*.quay.io/team/app");
        assert_eq!(best(&["*.quay.io", "x.quay.io"]), "x.quay.io");
    }
}
