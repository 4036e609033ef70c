"""The connections below HTTP: their limits, their end, and all that touches uvicorn's insides.

What is used of uvicorn beyond what it documents, and why. `tests/api/edge/test_uvicorn.py` reads
this list: it names what a new version lacks, and what is used and not listed.

`uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`, which `lean` and `protocol` derive from:

- `connection_made`, `connection_lost`: timers and the intake begin and end with a connection
- `data_received`, `_unset_keepalive_if_required`: bytes are parsed in turns, not all at once
- `parser`: fed in slices; a new one goes on behind a body that was taken from the socket
- `flow`: another flow control takes its place, in which reading can be held
- `transport`, `loop`: what is answered past the application; timers
- `on_message_begin`, `on_url`, `on_header`, `on_headers_complete`: heads have limits and a time
- `on_body`, `on_message_complete`: where a head may begin again; trailers are dropped
- `url`, `headers`, `scope`: the target counts before Host; the wire is put into the scope
- `server`: the port that was called, where a field names another
- `shutdown`: a connection ends behind the answer that is under way
- `connections`: a connection that speaks another protocol from now on ends with the others
- `cycle`: the present request: whether it is answered, and its hold on the connection
- `pipeline`: what waits behind it keeps a connection from being at rest
- `on_response_complete`: nothing is expected on a connection that ends
- `server_state`, `app`, `app_state`, `asgi_version`, `client`, `scheme`: scope and request are made
- `expect_100_continue`, `logger`, `access_logger`, `access_log`: here, once
- `timeout_keep_alive`, `timeout_keep_alive_task`, `timeout_keep_alive_handler`: one timer for all
- `_should_upgrade`, `handle_websocket_upgrade`: only a whole handshake becomes a WebSocket
- `send_400_response`: errors are JSON
- `_start_asgi_task`, `tasks`: a whole request may be answered without one, or by a short one

`uvicorn.protocols.http.httptools_impl.RequestResponseCycle`, one request:

- `scope`: what an upgrade asks the next server again
- `response_started`, `response_complete`: whether there may be another answer; what is at rest
- `keep_alive`, `on_response`: the end of an answer that was given at once
- `default_headers`: fields of every answer, those that are given at once as well
- `chunked_encoding`: whether an answer has an end, which an upgrade waits for
- `disconnected`, `message_event`: how a request is given up
- `keep_alive`: no request comes behind one for an upgrade
- `transport`: one whose end waits until the client has heard the answer
- `body`: what came of a body before the rest is taken from the socket
- `more_body`: whether a request that waited behind another is whole
- `waiting_for_100_continue`: who was not asked for the body sends none, so the connection ends
- `expected_content_length`: less what was carried past the interpreter

`uvicorn.protocols.http.flow_control.FlowControl`, which `intake` derives from:

- `_transport`, `read_paused`: reading is paused for two reasons
- `write_paused`: nothing is answered at once where the client does not read
- `pause_reading`, `resume_reading`: the application's reason
- `resume_writing`: answers that were taken are counted no more
- `drain`: what was written is in the kernel before another socket's bytes follow

`uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol`, as well:

- `connection_made`, `connection_lost`, `data_received`: frames are parsed in turns
- `queue`, `receive`, `read_paused`: reading goes on when no message waits
- `transport`, `resume_writing`: a client that does not read its pongs is not read
- `handle_cont`, `frames`: a message has a bounded number of fragments
- `conn`, `handle_parser_exception`: 1009 for one that has more
- `close_sent`, `stop_keepalive`, `disconnected`: whoever is refused is told why, and nothing else
- `shutdown`: an upgrade closes WebSockets with 1012

`uvicorn.server.Server`, which `server` derives from:

- `startup`, `shutdown`: services start before the first request and stop after the last; the end
  that `shutdown` makes is another one, which resets nobody
- `force_exit`: a second Ctrl-C waits for nobody
- `main_loop`, `on_tick`: it looks when something rings, and for the date once a second
- `should_exit`: an upgrade ends the main loop, unless the end was ordered meanwhile
- `capture_signals`, `handle_exit`: an orderly end exits with 0
- `servers`, `server_state`: an upgrade stops accepting and leaves connections to the next version
- `config`, `lifespan`: connections of the version before get a protocol as accepted ones do

`uvicorn.server.ServerState`, in it:

- `connections`, `tasks`: what goes on, what is answered first, what is given up
- `total_requests`: an answer that was given
- `default_headers`: fields of every one; at the end it says that it is its connection's last

`uvicorn.lifespan.off.LifespanOff`, in the place of a lifespan:

- `state`: an argument of each protocol
"""

from importlib import import_module

from sandkeeper.deferred import defer

# uvicorn's modules without what its package loads: a command line, reloaders, workers. That is a
# twentieth of what a start imports, and nothing that lies below the package needs it but `Config`.
# Whoever asks the package itself for something else gets all of it, then.
defer("uvicorn", Config=lambda: import_module("uvicorn.config").Config)
