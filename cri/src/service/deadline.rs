//! A client's deadline (`grpc-timeout`) that passes is answered with DEADLINE_EXCEEDED.
//!
//! tonic keeps the same deadline and answers CANCELLED, which gRPC means for a client that has gone; kubelet and crictl
//! tell the two apart. This one lies inside of tonic's, and begins a moment earlier, so it comes first.
//! Specification: gRPC over HTTP2, "Timeout".

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// A gRPC service with deadlines.
#[derive(Clone, Debug)]
pub(super) struct Deadline<S>(pub S);

impl<S: NamedService> NamedService for Deadline<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(limit) = limit(request.headers()) else { return Box::pin(self.0.call(request)) };
        let (method, late) = (request.uri().path().to_owned(), tokio::time::sleep(limit));
        let answer = self.0.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = answer => answer,
                () = late => {
                    let what = format!("{method}: not done within the {limit:?} that the client gave it");
                    Ok(Status::deadline_exceeded(what).into_http())
                }
            }
        })
    }
}

/// At most eight digits and a unit. What is malformed is no deadline.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after some time.
    struct Slow(Duration);

    impl Service<Request<Body>> for Slow {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let time = self.0;
            Box::pin(async move {
                tokio::time::sleep(time).await;
                Ok(Status::ok("").into_http())
            })
        }
    }

    async fn code(takes: Duration, given: Option<&str>) -> String {
        let mut request = Request::builder().uri("/runtime.v1.RuntimeService/Status");
        if let Some(given) = given {
            request = request.header("grpc-timeout", given);
        }
        let answer = Deadline(Slow(takes)).call(request.body(Body::empty()).unwrap()).await.unwrap();
        answer.headers()["grpc-status"].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_deadline_that_passes_is_told_as_such() {
        let (soon, never) = (Duration::ZERO, Duration::from_secs(3600));
        assert_eq!(code(soon, None).await, "0");
        assert_eq!(code(soon, Some("20S")).await, "0");
        assert_eq!(code(never, Some("1m")).await, "4");
        assert_eq!(code(never, Some("0n")).await, "4");
    }

    #[test]
    fn units_and_what_is_none() {
        let of = |text: &str| limit(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("4S"), Some(Duration::from_secs(4)));
        assert_eq!(of("99999999u"), Some(Duration::from_micros(99_999_999)));
        for none in ["", "S", "1", "-1S", "1.5S", "123456789S", "1x"] {
            assert_eq!(of(none), None, "{none:?}");
        }
        assert_eq!(limit(&HeaderMap::new()), None);
    }
}
