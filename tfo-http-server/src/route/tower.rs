use std::mem;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::{ProofFuture, ProofLayer, ProofService};

impl<S> Layer<S> for ProofLayer {
    type Service = ProofService<S>;

    fn layer(&self, service: S) -> ProofService<S> {
        self.wrap(service)
    }
}

impl<S, A, B> Service<Request<A>> for ProofService<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = ProofFuture<S, Request<A>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let judgement = self.judge(&request);
        // The one that is ready is called, its clone stays.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        ProofFuture::new(judgement, ready, request, |mut service, request| service.call(request))
    }
}
