//! The wire.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tfo_lab::Lab;

tfo_lab::lab_tests! {
    fn builds() {
        let start = Instant::now();
        let lab = Lab::builder().rtt(Duration::from_millis(40)).build().expect("a lab");
        println!("{:?} {lab:?}", start.elapsed());
        assert!(lab.tap().wait_quiet(Duration::from_millis(300), Duration::from_secs(2)));
        println!("{}", lab.tap().ladder());
        let (client, server) = (lab.host("client"), lab.host("server"));
        for to in [server.addr(80), server.addr_v6(80)] {
        let listener = server.run(|| TcpListener::bind(to)).expect("listen");
        let start = Instant::now();
        let mut stream = client.run(|| TcpStream::connect(to)).expect("connect");
        println!("{:?}", start.elapsed());
        stream.write_all(b"hello").expect("write");
        let (mut got, _) = listener.accept().expect("accept");
        let mut buf = [0; 5];
        got.read_exact(&mut buf).expect("read");
        got.write_all(b"hello").expect("write");
        stream.read_exact(&mut buf).expect("read");
        println!("{:?}", start.elapsed());
        drop((got, stream));
        }
        assert!(lab.tap().wait_quiet(Duration::from_millis(100), Duration::from_secs(2)));
        println!("{}", lab.tap().ladder());
        println!("{:?}", client.sysctl("net.ipv4.tcp_fastopen"));
        println!("{:?}", client.flush_cookies());
        let start = Instant::now();
        drop((client, server, lab));
        println!("drop {:?}", start.elapsed());
    }
}
