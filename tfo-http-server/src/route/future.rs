use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::Judgement;
use crate::AcceptInfo;
use crate::outcome::Disproven;

pin_project! {
    /// The answer of a [`ProofService`](super::ProofService): the inner service's, or 425.
    ///
    /// For the service `S`, its requests `Q` and its futures `F`.
    pub struct ProofFuture<S, Q, F> {
        #[pin]
        state: State<S, Q, F>,
        // How the kind of service at hand is called.
        call: fn(S, Q) -> F,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, Q, F> {
        Running { #[pin] future: F },
        Waiting { proven: Proven, held: Option<(S, Q)>, info: AcceptInfo },
        Answered { status: StatusCode },
    }
}

type Proven = Pin<Box<dyn Future<Output = Result<(), Disproven>> + Send>>;

impl<S, Q, F> ProofFuture<S, Q, F> {
    /// `service` yields the service to call, now or later.
    pub(super) fn new(judgement: Judgement, service: S, request: Q, call: fn(S, Q) -> F) -> Self {
        let state = match judgement {
            Judgement::Run => State::Running { future: call(service, request) },
            Judgement::TooEarly => State::Answered { status: StatusCode::TOO_EARLY },
            Judgement::ConnectionUnknown => State::Answered { status: StatusCode::INTERNAL_SERVER_ERROR },
            Judgement::Wait(info) => {
                let waiting = info.clone();
                let proven: Proven = Box::pin(async move { waiting.proven().await });
                State::Waiting { proven, held: Some((service, request)), info }
            }
        };
        Self { state, call }
    }
}

impl<S, Q, F, B, E> Future for ProofFuture<S, Q, F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Running { future } => return future.poll(cx),
                StateProjection::Answered { status } => return Poll::Ready(Ok(answer(*status))),
                StateProjection::Waiting { proven, held, info } => match ready!(proven.as_mut().poll(cx)) {
                    Ok(()) => match held.take() {
                        Some((service, request)) => State::Running { future: (this.call)(service, request) },
                        None => State::Answered { status: StatusCode::INTERNAL_SERVER_ERROR },
                    },
                    Err(_) => {
                        info.abort();
                        // Nobody will see it.
                        State::Answered { status: StatusCode::TOO_EARLY }
                    }
                },
            };
            this.state.set(next);
        }
    }
}

impl<S, Q, F> fmt::Debug for ProofFuture<S, Q, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Running { .. } => "ProofFuture(running)",
            State::Waiting { .. } => "ProofFuture(waiting for the proof)",
            State::Answered { .. } => "ProofFuture(answered)",
        })
    }
}

fn answer<B: Default>(status: StatusCode) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    response
}
