//! What a listener says at start, and that it is so, in namespaces that are set in different ways.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use support::{POST, RawClient, Runtime, accept_ride, serve, stays_pending};
use tfo_core::Ability;
use tfo_http_server::{AcceptOutcome, PlainReason};
use tfo_lab::{Lab, lab_tests};

use Runtime::CurrentThread;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_container_has_it_off_and_the_fix_is_named() {
        let lab = Lab::builder().fastopen("server", 1).build().unwrap();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let effect = listener.effect();
            assert_eq!(effect.ability(), Ability::Off);
            let text = effect.to_string();
            assert!(text.contains("does not work") && text.contains("fix: sysctl -w net.ipv4.tcp_fastopen=3"), "{text}");
            let mut client = RawClient::v4(&lab, 1);
            client.syn(POST);
            stays_pending(listener.accept()).await;
            client.ack_syn_only(POST);
            let (stream, _) = listener.accept().await.unwrap();
            assert_eq!(stream.info().outcome(), AcceptOutcome::Plain(PlainReason::Off));
        });
    }

    fn where_it_is_on_it_works() {
        let lab = Lab::builder().fastopen("server", 0x203).build().unwrap();
        serve(&lab, CurrentThread, |builder| builder.fastopen_queue(9), async |listener| {
            let effect = listener.effect();
            assert_eq!((effect.ability(), effect.queue()), (Ability::Works, 9));
            assert!(effect.to_string().contains("TCP Fast Open works, queue 9"), "{effect}");
            assert!(effect.to_string().contains("forged"), "a warning about 0x200: {effect}");
            RawClient::v4(&lab, 1).syn(POST);
            accept_ride(&listener, POST).await;
        });
    }

    fn switched_off_is_off_even_where_every_listener_has_it() {
        let lab = Lab::builder().fastopen("server", 0x603).build().unwrap();
        serve(&lab, CurrentThread, |builder| builder.fastopen(false), async |listener| {
            assert_eq!(listener.effect().ability(), Ability::Off);
            RawClient::v4(&lab, 1).syn(POST);
            stays_pending(listener.accept()).await;
        });
        // The control: with it on, that SYN is accepted.
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            RawClient::v4(&lab, 2).syn(POST);
            accept_ride(&listener, POST).await;
        });
    }
}
