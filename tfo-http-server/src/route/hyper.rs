use http::{Request, Response};
use hyper::service::Service;

use super::{ProofFuture, ProofService};

impl<S, A, B> Service<Request<A>> for ProofService<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = ProofFuture<S, Request<A>, S::Future>;

    fn call(&self, request: Request<A>) -> Self::Future {
        let judgement = self.judge(&request);
        ProofFuture::new(judgement, self.inner.clone(), request, |service, request| service.call(request))
    }
}
