//! A true drop-in: what `hyper_util` tests of its client and its proxies, as scenarios of our own, each with
//! one body for `HttpConnector` and `TfoConnector`.
//!
//! Each runs three times: with theirs; with ours, where the wire has to show that connects were deferred and
//! requests rode; and with ours switched off, where everything has to pass but that.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod bursts;
mod cancel;
mod errors;
mod pool;
mod protocols;
mod proxies;
mod races;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::any::Any;
use std::panic::catch_unwind;
use std::process::ExitCode;

use hyper_util::client::legacy::connect::HttpConnector;
use stage::NOT_THESE;
use support::subject::{Names, SwitchedOff};
use tfo_http::TfoConnector;
#[cfg(feature = "native-tls")]
use tls::native;

macro_rules! scenarios {
    ($($module:ident { $($(#[$with:meta])? $name:ident)+ })+) => {
        fn main() -> ExitCode {
            tfo_lab::test::main(&[$($(
                $(#[$with])?
                (concat!("theirs::", stringify!($module), "::", stringify!($name)), $module::$name::<HttpConnector<Names>>),
                $(#[$with])?
                (concat!("ours::", stringify!($module), "::", stringify!($name)), $module::$name::<TfoConnector<Names>>),
                $(#[$with])?
                (concat!("off::", stringify!($module), "::", stringify!($name)), || {
                    only_the_syns_differ(catch_unwind($module::$name::<SwitchedOff>))
                }),
            )+)+])
        }
    };
}

scenarios! {
    pool {
        keep_alive_serves_two_requests_on_one_connection
        an_answer_to_head_with_a_body_ends_the_connection
        an_answer_before_the_end_of_the_request_body
        the_end_of_a_chunked_body_is_read_unasked
        no_idle_connections_wanted
        idle_connections_expire
        no_more_idle_connections_than_wanted
        a_server_that_closes_an_idle_connection
        dropping_the_client_closes_idle_connections
        a_poisoned_connection_is_not_used_again
    }
    cancel {
        a_connect_begins_with_the_first_poll
        a_body_dropped_early_closes_the_connection
        a_body_dropped_at_once_closes_the_connection
        a_response_future_dropped_closes_the_connection
        a_response_future_dropped_before_any_answer
        a_request_with_an_end_behind_it
        a_connect_dropped_leaves_nothing
    }
    races {
        a_connection_that_became_idle_beats_a_connect
        a_connect_beats_a_busy_connection
        a_spare_connection_outlives_the_connect_timeout
        a_canceled_request_is_sent_again
        a_canceled_request_is_not_sent_again_where_that_is_off
    }
    bursts {
        at_once_over_http_1
        at_once_over_http_2
        a_few_at_a_time_over_http_1
    }
    protocols {
        host_is_set
        host_is_left_out
        a_post_has_its_body
        addresses_and_captured_connections
        an_upgrade_gives_the_connection_away
        http_2_alone
        http_2_negotiated
        http_2_extended_connect
        names_are_resolved
    }
    proxies {
        absolute_form_through_a_proxy
        authority_form_for_connect
        http_connect
        http_connect_with_credentials
        socks_5
        socks_5_with_a_password
        socks_5_resolves_at_the_proxy
        socks_5_resolves_here
        socks_5_to_ipv6
        socks_5_all_at_once
        socks_4
        socks_4_resolves_at_the_proxy
        socks_4_cannot_ipv6
        a_matcher_decides
        proxies_that_refuse_or_talk_nonsense_or_hang_up
        a_proxy_that_is_not_there
    }
    errors {
        refused
        refused_over_http_2
        unreachable
        silent
        names_that_have_no_address
        uris_that_are_no_use
        https_where_only_http_is_allowed
        closed_without_an_answer
        reset_in_the_middle
        an_answer_that_is_none
        http_1_to_an_http_2_server
        http_2_to_an_http_1_server
    }
    tls {
        rustls_to_tokio_rustls
        rustls_to_tokio_rustls_over_http_2
        rustls_to_nginx
        rustls_to_openssl
        a_hello_that_does_not_fit
        a_certificate_that_nobody_signed
        refused_behind_tls
    }
    native {
        #[cfg(feature = "native-tls")]
        to_nginx
        #[cfg(feature = "native-tls")]
        to_openssl
        #[cfg(feature = "native-tls")]
        to_tokio_rustls
        #[cfg(feature = "native-tls")]
        a_certificate_that_nobody_signed
        #[cfg(feature = "native-tls")]
        refused_behind_tls
    }
}

/// A scenario that passes with TCP Fast Open off proves nothing about it; and off, everything else works.
fn only_the_syns_differ(result: Result<(), Box<dyn Any + Send>>) {
    let panic = result.expect_err("nothing shows that connects were deferred");
    let Some(said) = panic.downcast_ref::<String>() else { std::panic::resume_unwind(panic) };
    assert!(said.starts_with(NOT_THESE), "{said}");
}
