package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// What has been asked of the servers, so that a run can be refused in which a gateway did not do its job.
var proxied, looked, recorded atomic.Int64

func serve(args []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	rules := flags.Int("rules", 1000, "how many blacklist rules the backend gives")
	delay := flags.Duration("delay", 0, "how long the backend thinks about a proxy")
	upstreams := flags.Int("upstreams", 1, "how many upstream proxies the backend gives in turn")
	flags.Parse(args)
	log.SetOutput(io.Discard) // net/http's complaints about clients that go away

	origin, secure, proxy, backend, counts := listen(), listen(), listen(), listen(), listen()
	go http.Serve(origin, http.HandlerFunc(answer))
	s := &http.Server{Handler: http.HandlerFunc(answer), TLSConfig: &tls.Config{Certificates: []tls.Certificate{selfSigned()}}}
	go s.ServeTLS(secure, "", "")
	proxies := []int{port(proxy)}
	for len(proxies) < *upstreams {
		another := listen()
		proxies = append(proxies, port(another))
		go http.Serve(another, http.HandlerFunc(forward))
	}
	go http.Serve(proxy, http.HandlerFunc(forward))
	go http.Serve(backend, manager(proxies, *rules, *delay))
	go http.Serve(counts, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]int64{"proxied": proxied.Load(), "looked": looked.Load(), "recorded": recorded.Load()})
	}))
	json.NewEncoder(os.Stdout).Encode(map[string]int{
		"origin": port(origin), "secure": port(secure), "proxy": port(proxy), "backend": port(backend), "counts": port(counts)})
	io.Copy(io.Discard, os.Stdin) // until whoever started it closes the pipe
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return l
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func selfSigned() tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// answer is the origin: ?n=BYTES of body, 1 KiB by default.
func answer(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	n := 1024
	if text := r.URL.Query().Get("n"); text != "" {
		n, _ = strconv.Atoi(text)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	for piece := make([]byte, 32768); n > 0; n -= len(piece) {
		if n < len(piece) {
			piece = piece[:n]
		}
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}

var transport = &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}

// forward is the upstream proxy: CONNECT and absolute-form.
func forward(w http.ResponseWriter, r *http.Request) {
	proxied.Add(1)
	if r.Method == http.MethodConnect {
		tunnel(w, r)
		return
	}
	r.RequestURI = ""
	response, err := transport.RoundTrip(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	io.Copy(w, response.Body)
}

func tunnel(w http.ResponseWriter, r *http.Request) {
	target, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		target.Close()
		return
	}
	client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	go func() { io.Copy(target, client); target.Close() }()
	io.Copy(client, target)
	client.Close()
}

// manager is the backend of docs/openapi.yaml, without checks of tokens.
func manager(proxies []int, rules int, delay time.Duration) http.Handler {
	type rule struct {
		ID      int    `json:"id"`
		Pattern string `json:"pattern"`
	}
	list := make([]rule, rules)
	for i := range list {
		list[i] = rule{i + 1, fmt.Sprintf(`(^|\.)blocked-%d\.example\.com/`, i)}
	}
	blacklist, _ := json.Marshal(list)
	routes := make([][]byte, len(proxies))
	for i, p := range proxies {
		routes[i] = []byte(fmt.Sprintf(`{"id":%d,"ip":"127.0.0.1","port":%d,"address":"127.0.0.1:%d","protocol":"http","is_working":true,"user_id":7}`, 42+i, p, p))
	}
	mux := http.NewServeMux()
	give := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(body)
		}
	}
	mux.HandleFunc("/blacklist", give(blacklist))
	mux.HandleFunc("/proxy", func(w http.ResponseWriter, r *http.Request) {
		turn := looked.Add(1)
		time.Sleep(delay)
		give(routes[int(turn)%len(routes)])(w, r)
	})
	mux.HandleFunc("/activity", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		recorded.Add(1)
		w.WriteHeader(http.StatusCreated)
	})
	return mux
}
