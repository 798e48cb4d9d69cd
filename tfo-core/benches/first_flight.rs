//! What it costs to classify a first flight.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tfo_core::first_flight::FirstFlight;

const CURL: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

const BROWSER: &[u8] = b"GET /articles/2024/a-long-walk?utm_source=newsletter HTTP/1.1\r\n\
Host: www.example.org\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Referer: https://www.example.org/articles/\r\n\
DNT: 1\r\n\
Connection: keep-alive\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes; _ga=GA1.2.1234567890.1234567890\r\n\
Upgrade-Insecure-Requests: 1\r\n\
Sec-Fetch-Dest: document\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Site: same-origin\r\n\
Priority: u=0, i\r\n\r\n";

const POST: &[u8] = b"POST /form HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 5\r\n\r\nhello";

/// Preface, SETTINGS, WINDOW_UPDATE and a GET with a Huffman-coded authority and user agent.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
\x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\
\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x4f\x00\x01\
\x00\x00\x1c\x01\x05\x00\x00\x00\x01\
\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x7a\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";

fn first_flight(criterion: &mut Criterion) {
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[0xab; 506]].concat();
    let mut group = criterion.benchmark_group("first_flight");
    for (name, flight) in [
        ("get_curl", CURL),
        ("get_browser", BROWSER),
        ("http2_get", HTTP2),
        ("client_hello", &hello),
        ("post", POST),
    ] {
        let class = FirstFlight::classify(flight);
        assert_eq!(class.is_whole(), name != "post", "{name}: {class:?}");
        group.throughput(Throughput::Bytes(flight.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| FirstFlight::classify(black_box(flight))));
    }
    group.finish();
}

criterion_group!(benches, first_flight);
criterion_main!(benches);
