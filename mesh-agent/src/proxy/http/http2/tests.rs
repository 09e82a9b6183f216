//! Our server with the client of h2, and our client with its server.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TE, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::client::{Failed, Requests};
use super::{client, server};
use crate::proxy::http::body::{self, Body, BodyError};
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::places::Places;
use crate::proxy::http::setup::Http2;
use crate::task::scope::Scope;

/// As much as a test sends before anybody reads.
const FEW: usize = 16;

type Sent = Result<Frame<Bytes>, BodyError>;

/// A body of frames as they are sent.
struct Frames(mpsc::Receiver<Sent>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Sent>> {
        self.0.poll_recv(cx)
    }
}

/// A body, and who sends its frames.
fn frames() -> (mpsc::Sender<Sent>, Body) {
    let (sender, frames) = mpsc::channel(FEW);
    (sender, Frames(frames).boxed_unsync())
}

fn data(bytes: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes))
}

/// A client of a server whose requests `service` answers.
async fn served<Service, Answer>(scope: &Scope, service: Service) -> SendRequest<Bytes>
where
    Service: Fn(Request<Incoming>) -> Answer + Send + Unpin + 'static,
    Answer: Future<Output = Result<Response<Body>, BodyError>> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let serving = server::serve(ours, scope, Http2::default(), service);
    scope.spawn(Box::pin(async move { serving.await.unwrap_or_default() }));
    let (requests, connection) = h2::client::handshake(theirs).await.unwrap();
    scope.spawn(Box::pin(async move { connection.await.unwrap_or_default() }));
    requests.ready().await.unwrap()
}

/// A client of a server that gives each of these answers once.
async fn giving(
    scope: &Scope,
    answers: impl IntoIterator<Item = Response<Body>>,
) -> SendRequest<Bytes> {
    let answers: Mutex<Vec<_>> = Mutex::new(answers.into_iter().collect());
    let next = move || answers.lock().unwrap().remove(0);
    served(scope, move |_request| {
        let answer = next();
        async move { Ok(answer) }
    })
    .await
}

fn request(method: &Method) -> Request<()> {
    Request::builder().method(method).uri("http://a/").body(()).unwrap()
}

/// Asks, without a body.
async fn get(requests: &mut SendRequest<Bytes>, method: &Method) -> Response<RecvStream> {
    requests.send_request(request(method), true).unwrap().0.await.unwrap()
}

/// Asks, with a body.
fn post(requests: &mut SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
    requests.send_request(request(&Method::POST), false).unwrap()
}

/// The rest of a body: its data, and its trailers, or why it has none.
async fn read(mut from: RecvStream) -> (Vec<Bytes>, Result<Option<HeaderMap>, h2::Error>) {
    let mut all = Vec::new();
    while let Some(data) = from.data().await {
        match data {
            Ok(data) => {
                from.flow_control().release_capacity(data.len()).unwrap();
                all.push(data);
            }
            Err(error) => return (all, Err(error)),
        }
    }
    (all, from.trailers().await)
}

/// A number of bytes that no window takes at once, each of which differs from those around it.
fn long() -> Bytes {
    (0..=250).cycle().take(3 << 20).collect()
}

#[tokio::test]
async fn an_answer_is_as_it_was_given() {
    let scope = Scope::new("test");
    let (sender, streamed) = frames();
    let (mut trailers, expect) = (HeaderMap::new(), HeaderValue::from_static("0"));
    trailers.insert("grpc-status", expect.clone());
    for frame in [data(b"one"), data(b"two"), Frame::trailers(trailers)] {
        sender.try_send(Ok(frame)).unwrap();
    }
    drop(sender);
    let answers = [body::full("whole"), streamed, body::empty(), body::full(long())];
    let mut requests = giving(&scope, answers.map(Response::new)).await;
    let whole = get(&mut requests, &Method::GET).await;
    assert_eq!(whole.headers()[CONTENT_LENGTH], "5");
    let (data, trailers) = read(whole.into_body()).await;
    assert_eq!((data.concat(), trailers.unwrap()), (b"whole".to_vec(), None));
    let streamed = get(&mut requests, &Method::GET).await;
    assert!(!streamed.headers().contains_key(CONTENT_LENGTH));
    let (data, trailers) = read(streamed.into_body()).await;
    assert_eq!((data.len(), data.concat()), (2, b"onetwo".to_vec()));
    assert_eq!(trailers.unwrap().unwrap()["grpc-status"], expect);
    // An answer without a body ends with its head.
    let empty = get(&mut requests, &Method::GET).await;
    assert!(empty.headers().is_empty() && empty.body().is_end_stream());
    let (data, _) = read(get(&mut requests, &Method::GET).await.into_body()).await;
    assert!(data.concat() == long());
}

#[tokio::test]
async fn an_answer_has_nothing_of_http1() {
    let scope = Scope::new("test");
    let mut answer = Response::new(body::empty());
    for (name, value) in
        [("connection", "x-hop, upgrade"), ("upgrade", "h2c"), ("te", "trailers"), ("x-hop", "1")]
    {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    for name in ["keep-alive", "proxy-connection", "transfer-encoding", "x-stays"] {
        answer.headers_mut().insert(name, HeaderValue::from_static("1"));
    }
    let mut requests = giving(&scope, [answer]).await;
    let answer = get(&mut requests, &Method::GET).await;
    let names: Vec<_> = answer.headers().keys().map(|name| name.as_str().to_owned()).collect();
    assert_eq!(names, ["x-stays"]);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_bytes() {
    let scope = Scope::new("test");
    let mut requests = giving(&scope, [Response::new(body::full("whole"))]).await;
    let answer = get(&mut requests, &Method::HEAD).await;
    assert_eq!(answer.headers()[CONTENT_LENGTH], "5");
    let (data, trailers) = read(answer.into_body()).await;
    assert_eq!((data.concat(), trailers.unwrap()), (vec![], None));
}

#[tokio::test]
async fn a_body_that_breaks_off_resets_with_its_reason() {
    let scope = Scope::new("test");
    for reason in [Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR] {
        let (sender, body) = frames();
        let mut requests = giving(&scope, [Response::new(body)]).await;
        let answer = get(&mut requests, &Method::GET).await;
        let error: BodyError = match reason {
            Reason::INTERNAL_ERROR => "another".into(),
            reason => h2::Error::from(reason).into(),
        };
        sender.try_send(Err(error)).unwrap();
        let (_, end) = read(answer.into_body()).await;
        assert_eq!(end.unwrap_err().reason(), Some(reason));
    }
}

#[tokio::test]
async fn a_service_that_fails_resets() {
    let scope = Scope::new("test");
    let failed = |_request| async { Err(h2::Error::from(Reason::REFUSED_STREAM).into()) };
    let mut requests = served(&scope, failed).await;
    let (answer, _) = requests.send_request(request(&Method::GET), true).unwrap();
    assert_eq!(answer.await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
}

/// Says that it was dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.take().map(|dropped| dropped.send(()));
    }
}

#[tokio::test]
async fn a_request_that_is_taken_back_is_not_answered() {
    let scope = Scope::new("test");
    let (tell, dropped) = oneshot::channel();
    let (begin, begun) = oneshot::channel();
    let once = Mutex::new(Some((begin, Dropped(Some(tell)))));
    let service = move |_request| {
        let (begin, guard) = once.lock().unwrap().take().unwrap();
        async move {
            begin.send(()).unwrap();
            pending::<()>().await;
            drop(guard);
            Ok(Response::new(body::empty()))
        }
    };
    let mut requests = served(&scope, service).await;
    let (answer, mut stream) = post(&mut requests);
    begun.await.unwrap();
    stream.send_reset(Reason::CANCEL);
    dropped.await.unwrap();
    drop(answer);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_any_more_is_dropped() {
    let scope = Scope::new("test");
    let (sender, body) = frames();
    sender.try_send(Ok(data(b"one"))).unwrap();
    let mut requests = giving(&scope, [Response::new(body)]).await;
    let answer = get(&mut requests, &Method::GET).await;
    drop(answer);
    sender.closed().await;
}

#[tokio::test]
async fn a_body_is_read_with_its_trailers() {
    let scope = Scope::new("test");
    let service = |request: Request<Incoming>| async {
        let body = request.into_body().collect().await?;
        let trailers = body.trailers().cloned();
        let mut answer = Response::new(body::full(body.to_bytes()));
        answer.headers_mut().extend(trailers.unwrap_or_default());
        Ok(answer)
    };
    let mut requests = served(&scope, service).await;
    let (answer, mut stream) = post(&mut requests);
    let (sent, asked) = (long(), async { read(answer.await.unwrap().into_body()).await });
    stream.send_data(sent.clone(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    stream.send_trailers(trailers).unwrap();
    let (data, _) = asked.await;
    assert!(data.concat() == sent);
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_stops_that_in_order() {
    let scope = Scope::new("test");
    let mut requests = giving(&scope, [Response::new(body::full("early"))]).await;
    let (answer, mut stream) = post(&mut requests);
    let (data, trailers) = read(answer.await.unwrap().into_body()).await;
    assert_eq!(data.concat(), b"early");
    trailers.unwrap();
    let reset = poll_fn(|cx| stream.poll_reset(cx)).await;
    assert_eq!(reset.unwrap(), Reason::NO_ERROR);
}

/// Requests to a server of h2, and those that it has.
async fn asking(
    scope: &Scope,
) -> (Requests, mpsc::Receiver<(Request<RecvStream>, SendResponse<Bytes>)>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (tell, told) = mpsc::channel(FEW);
    scope.spawn(Box::pin(async move {
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        while let Some(Ok(request)) = connection.accept().await {
            if tell.send(request).await.is_err() {
                return;
            }
        }
    }));
    let begun = client::begin(ours, scope, Http2::default()).await;
    let (requests, _, connection) = begun.unwrap();
    scope.spawn(Box::pin(async move { connection.await.unwrap_or_default() }));
    (requests, told)
}

#[tokio::test]
async fn a_request_goes_as_http2_has_it() {
    let scope = Scope::new("test");
    let (requests, mut told) = asking(&scope).await;
    let mut asked = request(&Method::POST).map(|()| body::full(long()));
    for (name, value) in [(CONNECTION, "x"), (UPGRADE, "h2c"), (TE, "gzip, trailers")] {
        asked.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let serve = async {
        let (request, mut respond) = told.recv().await.unwrap();
        let (head, body) = request.into_parts();
        assert_eq!(head.headers.len(), 1);
        assert_eq!(head.headers[CONTENT_LENGTH], long().len().to_string());
        let (data, _) = read(body).await;
        assert!(data.concat() == long());
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(long(), true).unwrap();
    };
    let ask = async {
        let answer = requests.send(asked, None).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    let ((), answer) = tokio::join!(serve, ask);
    assert!(answer == long());
}

#[tokio::test]
async fn a_request_that_is_dropped_is_taken_back() {
    let scope = Scope::new("test");
    let (requests, mut told) = asking(&scope).await;
    let (_sender, body) = frames();
    let mut sending = Box::pin(requests.send(request(&Method::POST).map(|()| body), None));
    let (_request, mut respond) = tokio::select! {
        _ = &mut sending => unreachable!("nobody answers"),
        asked = told.recv() => asked.unwrap(),
    };
    drop(sending);
    let reset = poll_fn(|cx| respond.poll_reset(cx)).await;
    assert_eq!(reset.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn a_body_goes_on_after_the_head_of_its_answer() {
    let scope = Scope::new("test");
    let (requests, mut told) = asking(&scope).await;
    let (sender, body) = frames();
    let serve = async {
        let (request, mut respond) = told.recv().await.unwrap();
        let stream = respond.send_response(Response::new(()), false).unwrap();
        (request.into_body(), stream)
    };
    let send = requests.send(request(&Method::POST).map(|()| body), None);
    let ((mut from, mut to), answer) = tokio::join!(serve, send);
    let mut answer = answer.unwrap().into_body();
    for _ in 0..3 {
        sender.try_send(Ok(data(b"ping"))).unwrap();
        assert_eq!(from.data().await.unwrap().unwrap(), "ping");
        to.send_data(Bytes::from_static(b"pong"), false).unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "pong");
    }
    // An answer that is complete may stop it (RFC 9113, section 8.1); one that is cut is none.
    to.send_data(Bytes::new(), true).unwrap();
    to.send_reset(Reason::NO_ERROR);
    assert!(matches!(answer.frame().await, None | Some(Ok(_))));
    sender.closed().await;
}

#[tokio::test]
async fn a_request_that_is_malformed_ends_alone() {
    let scope = Scope::new("test");
    let mut requests = giving(&scope, [Response::new(body::empty())]).await;
    for (name, value) in [("content-length", ""), ("x-a", " b "), ("x-a", "b\t")] {
        let mut ask = request(&Method::GET);
        ask.headers_mut().insert(name, HeaderValue::from_static(value));
        let reset = requests.send_request(ask, true).unwrap().0.await.unwrap_err();
        assert_eq!(reset.reason(), Some(Reason::PROTOCOL_ERROR), "{name}: {value:?}");
    }
    assert_eq!(get(&mut requests, &Method::GET).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_that_is_cut_fails() {
    let scope = Scope::new("test");
    let (requests, mut told) = asking(&scope).await;
    // Also where nothing says how long it is: there is no body to be stopped.
    for length in [Some("5"), None] {
        let serve = async {
            let (_request, mut respond) = told.recv().await.unwrap();
            let mut answer = Response::new(());
            if let Some(length) = length {
                answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            respond.send_response(answer, false).unwrap()
        };
        let ask = request(&Method::GET).map(|()| body::empty());
        let (mut stream, answer) = tokio::join!(serve, requests.clone().send(ask, None));
        let mut answer = answer.unwrap().into_body();
        stream.send_data(Bytes::from_static(b"cut"), false).unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "cut");
        stream.send_reset(Reason::NO_ERROR);
        answer.frame().await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn a_request_for_a_connection_that_has_ended_is_given_back() {
    let scope = Scope::new("test");
    let (requests, mut told) = asking(&scope).await;
    let send = |requests: &Requests| {
        requests.clone().send(request(&Method::GET).map(|()| body::empty()), None)
    };
    let serve = async {
        let (_request, mut respond) = told.recv().await.unwrap();
        respond.send_response(Response::new(()), true).unwrap();
    };
    let ((), answer) = tokio::join!(serve, send(&requests));
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    // The server ends with the next request.
    drop(told);
    send(&requests).await.unwrap_err();
    while !requests.is_closed() {
        tokio::task::yield_now().await;
    }
    let Err(Failed { unsent: Some(_), .. }) = send(&requests).await else {
        panic!("it was not sent");
    };
}

#[tokio::test]
async fn a_place_is_taken_until_its_answer_has_ended() {
    let scope = Scope::new("test");
    let (requests, mut told) = asking(&scope).await;
    let places = Places::new(1);
    let serve = async {
        let (_request, mut respond) = told.recv().await.unwrap();
        respond.send_response(Response::new(()), false).unwrap()
    };
    let send = requests.send(request(&Method::GET).map(|()| body::empty()), places.take());
    let (mut stream, answer) = tokio::join!(serve, send);
    let answer = answer.unwrap();
    assert!(places.take().is_none());
    stream.send_data(Bytes::from_static(b"x"), true).unwrap();
    answer.into_body().collect().await.unwrap();
    assert!(places.take().is_some());
}
