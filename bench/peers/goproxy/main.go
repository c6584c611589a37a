// The same job as far as a Go MITM proxy does it: TLS opened with a cached certificate, everything sent to one
// upstream proxy. No tokens, rules, backend or records.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net/http"
	"net/url"
	"sync"

	"github.com/elazarl/goproxy"
)

type cache struct {
	mutex        sync.Mutex
	certificates map[string]*tls.Certificate
}

func (c *cache) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if found := c.certificates[host]; found != nil {
		return found, nil
	}
	made, err := make()
	if err == nil {
		c.certificates[host] = made
	}
	return made, err
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "host:port")
	upstream := flag.String("upstream", "", "the upstream proxy, http://host:port")
	flag.Parse()
	through, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}
	proxy := goproxy.NewProxyHttpServer()
	proxy.CertStore = &cache{certificates: map[string]*tls.Certificate{}}
	proxy.Tr = &http.Transport{Proxy: http.ProxyURL(through), MaxIdleConnsPerHost: 512, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	proxy.ConnectDial = proxy.NewConnectDialToProxy(*upstream)
	proxy.OnRequest().HandleConnect(goproxy.AlwaysMitm)
	log.Fatal(http.ListenAndServe(*listen, proxy))
}
