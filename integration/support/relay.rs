//! A cable between the proxy and a server that can be cut, frozen or led elsewhere.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Between two looks whether a silent link is one no more.
const SILENCE_LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// To this port on 127.0.0.1.
    Forward(u16),
    /// Closes each connection at once.
    Refuse,
    /// Accepts and says nothing.
    Hang,
    /// A cut link: open connections stay open and nothing comes through, also to new ones.
    Silence,
    /// Answers with bytes that mean nothing.
    Garbage,
}

pub struct Relay {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    behaviour: Behaviour,
    /// Those that nobody answers are kept here, the others by who copies: what has been read by
    /// nobody when they are closed is answered with a reset, as a server expects it of a peer that
    /// has gone.
    held: Vec<TcpStream>,
    open: Vec<Weak<TcpStream>>,
}

impl Relay {
    pub fn start(behaviour: Behaviour) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { behaviour, held: Vec::new(), open: Vec::new() }));
        let shared = state.clone();
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                serve(client, &shared);
            }
        });
        Relay { port, state }
    }

    /// Cuts every open connection, but for silence; new ones are treated in the new way.
    pub fn set(&self, behaviour: Behaviour) {
        let mut state = self.state.lock().unwrap();
        state.behaviour = behaviour;
        if behaviour == Behaviour::Silence {
            return;
        }
        state.held.clear();
        for stream in state.open.drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut client: TcpStream, state: &Arc<Mutex<State>>) {
    let mut locked = state.lock().unwrap();
    match locked.behaviour {
        Behaviour::Refuse => drop(client),
        Behaviour::Hang | Behaviour::Silence => locked.held.push(client),
        Behaviour::Garbage => {
            std::thread::spawn(move || {
                let _ = client.write_all(&[0x55; 4096]);
                std::thread::park_timeout(Duration::from_secs(1));
            });
        }
        Behaviour::Forward(port) => {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
            let [client, server] = [client, server].map(Arc::new);
            for stream in [&client, &server] {
                let _ = stream.set_nodelay(true);
                locked.open.push(Arc::downgrade(stream));
            }
            copy(client.clone(), server.clone(), state);
            copy(server, client, state);
        }
    }
}

fn copy(from: Arc<TcpStream>, to: Arc<TcpStream>, state: &Arc<Mutex<State>>) {
    let state = state.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = (&*from).read(&mut bytes) {
            while state.lock().unwrap().behaviour == Behaviour::Silence {
                std::thread::park_timeout(SILENCE_LOOK);
            }
            if (&*to).write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
