// Reverseproxy is Go's httputil.ReverseProxy and nothing else: what a Go programmer gets for ten lines. It accepts
// HTTP/1.1 and cleartext HTTP/2, and speaks to the backend what it was spoken to in, as the original's proxies do.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

type byVersion struct{ one, two http.RoundTripper }

func (t byVersion) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.ProtoMajor == 2 {
		return t.two.RoundTrip(r)
	}
	return t.one.RoundTrip(r)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	backend := flag.String("backend", "127.0.0.1:8081", "address of the backend")
	flag.Parse()

	one := http.DefaultTransport.(*http.Transport).Clone()
	one.MaxIdleConns, one.MaxIdleConnsPerHost = 1000, 1000
	one.DisableCompression = true
	two := &http2.Transport{
		AllowHTTP:          true,
		DisableCompression: true,
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	target := &url.URL{Scheme: "http", Host: *backend}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
		Transport:     byVersion{one, two},
		FlushInterval: -1,
	}
	log.Fatal(http.ListenAndServe(*listen, h2c.NewHandler(proxy, &http2.Server{})))
}
