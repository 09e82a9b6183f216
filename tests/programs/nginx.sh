# nginx, asked by curl: HTTP/1.1, and HTTP/2 without TLS.

prepare() {
    mkdir -p "$CACHE/files"
    echo "hello" > "$CACHE/files/hello.txt"
    bytes 20000000 > "$CACHE/files/large.bin"
    # More than all buffers on the way hold.
    truncate -s 200M "$CACHE/files/huge.bin"
    seq 20000 > "$CACHE/files/numbers.txt"
    touch -d 2026-01-01T00:00:00Z "$CACHE"/files/*
    echo 'user:{PLAIN}secret' > "$CACHE/passwords"
    cat > "$CACHE/nginx.conf" <<END
daemon off;
user root;
error_log stderr;
pid SERVER/pid;
events {}
http {
    default_type text/plain;
    log_format told '\$remote_addr "\$request" \$status \$body_bytes_sent "\$http_user_agent"';
    access_log SERVER/access.log told;
    client_body_temp_path SERVER/body;
    proxy_temp_path SERVER/proxy; fastcgi_temp_path SERVER/fastcgi;
    uwsgi_temp_path SERVER/uwsgi; scgi_temp_path SERVER/scgi;
    gzip on;
    gzip_types text/plain;
    server {
        listen 8080;
        listen 8081 http2;
        root $CACHE/files;
        location /private/ { auth_basic "private"; auth_basic_user_file $CACHE/passwords; }
        location /asked { return 200 "\$request_method \$content_length \$http_transfer_encoding\n"; }
        location /moved { return 302 /hello.txt; }
    }
}
END
}

serve() {
    sed "s|SERVER|$SERVER|g" "$CACHE/nginx.conf" > "$SERVER/nginx.conf"
    exec /usr/sbin/nginx -c "$SERVER/nginx.conf"
}

# `Connection` is about one hop (RFC 9110, section 7.6.1), and `keep-alive` is what HTTP/1.1 does anyway.
normalize() { sed -E '/^(< )?Connection: keep-alive/d; s/^(< )?([Dd]ate): .*/\1\2: DATE/; /^\* +Trying /d; s/with [0-9]+ (out of [0-9]+ )?bytes (remaining|received)/with N bytes \2/; s/after [0-9]+ ms/after N ms/; s/0x[0-9a-f]+/ADDRESS/'; }

url() { echo "http://$HOST:8080/$1"; }
get() { curl -sS "$@"; }

keep_alive() {
    get -v "$(url hello.txt)" "$(url missing.txt)" "$(url moved)" "$(url hello.txt)" 2>&1 | grep -v 'bytes data\]'
    get -o one -o two -o three "$(url hello.txt)" "$(url numbers.txt)" "$(url hello.txt)" -w '%{num_connects} %{http_code} %{size_download}\n'
}

addresses() {
    get -o /dev/null "$(url hello.txt)" -w 'from %{local_ip} to %{remote_ip}:%{remote_port}\n'
    get -A seen-by-server -o /dev/null "$(url hello.txt)"
    wait_for says seen-by-server "$SERVER/access.log"
    grep seen-by-server "$SERVER/access.log"
}

chunked() {
    get -v --raw -H 'accept-encoding: gzip' "$(url numbers.txt)" -o raw 2>&1 | grep '^[<>]'
    get --compressed "$(url numbers.txt)" | sha256sum
    seq 50000 | get -v -T - -X POST -H 'transfer-encoding: chunked' "$(url asked)" 2>&1 | grep -E '^[<>]|^POST'
}

large() {
    get -o large "$(url large.bin)"
    sha256sum large
    get -r 1000000-1000999 "$(url large.bin)" | sha256sum
    get -I "$(url large.bin)"
}

# curl 7.88 cannot use such a connection for a second request.
http2() {
    for name in hello.txt missing.txt numbers.txt large.bin; do
        get --http2-prior-knowledge -D - -o "$name" -w '%{http_version} %{num_connects} %{size_download}\n' "http://$HOST:8081/$name"
    done
}

wrong_password() { get -i -u user:wrong "$(url private/hello.txt)"; }

refused() { get "$(url hello.txt)"; }

client_killed() {
    curl -sS --limit-rate 200k -A is-killed -o "$CONTROL/partial" "$(url huge.bin)" &
    wait_for has_bytes "$CONTROL/partial" 100000
    kill -9 $!
    wait $! 2>/dev/null
    wait_for says is-killed "$SERVER/access.log"
    grep is-killed "$SERVER/access.log" | sed -E 's/ 200 [0-9]+/ 200 PART/'
}

server_killed() {
    curl -sS --limit-rate 20M -o "$CONTROL/partial-2" "$(url huge.bin)" &
    wait_for has_bytes "$CONTROL/partial-2" 100000
    kill_server
    wait $!
    echo "status $?"
}
