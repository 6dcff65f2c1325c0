// The peer in Go: the same dashboard from the same three calls, by net/http, with the tokens checked.
//
//	aggregator -listen 127.0.0.1:9001 -upstream http://127.0.0.1:9000
//
// Below /kept an answer stays in memory for ever once it is made, and If-None-Match is compared with it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"
)

type claims struct {
	Subject  string `json:"sub"`
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Role     string `json:"role"`
	Expires  int64  `json:"exp"`
}

type dashboard struct {
	body []byte
	etag string
}

type gateway struct {
	upstream string
	client   *http.Client
	keys     map[string]*ecdsa.PublicKey
	verified sync.Map // sha256 of a token -> claims
	kept     sync.Map // user id -> dashboard
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9001", "where to listen")
	upstream := flag.String("upstream", "http://127.0.0.1:9000", "both services")
	flag.Parse()
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	g := &gateway{upstream: *upstream, client: &http.Client{Transport: transport, Timeout: time.Second}}
	if err := g.readKeys(); err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /v1/users/{id}/dashboard", g.answer(g.gather))
	http.HandleFunc("GET /kept/v1/users/{id}/dashboard", g.answer(g.find))
	log.Fatal(http.ListenAndServe(*listen, nil))
}

func (g *gateway) answer(get func(id, authorization string) (dashboard, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, authorization := r.PathValue("id"), r.Header.Get("Authorization")
		who, err := g.verify(strings.TrimPrefix(authorization, "Bearer "))
		if err != nil || (who.Subject != id && who.Role != "admin") {
			http.Error(w, "unauthenticated", http.StatusUnauthorized)
			return
		}
		answer, err := get(id, authorization)
		if err != nil {
			http.Error(w, "bad gateway", http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "private, no-cache")
		if answer.etag != "" {
			w.Header().Set("ETag", answer.etag)
			if r.Header.Get("If-None-Match") == answer.etag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		w.Write(answer.body)
	}
}

// gather asks for the three parts at once and splices their bytes.
func (g *gateway) gather(id, authorization string) (dashboard, error) {
	paths := [...]string{"/v1/users/" + id, "/v1/orders?user_id=" + id + "&limit=10", "/v1/users/" + id + "/stats"}
	var parts [len(paths)][]byte
	var failures [len(paths)]error
	var all sync.WaitGroup
	for i, path := range paths {
		all.Add(1)
		go func() {
			defer all.Done()
			parts[i], failures[i] = g.fetch(path, authorization)
		}()
	}
	all.Wait()
	body := fmt.Appendf(nil, `{"user":%s,"orders":%s,"stats":%s}`, parts[0], parts[1], parts[2])
	return dashboard{body: body}, errors.Join(failures[:]...)
}

func (g *gateway) find(id, authorization string) (dashboard, error) {
	if kept, known := g.kept.Load(id); known {
		return kept.(dashboard), nil
	}
	made, err := g.gather(id, authorization)
	if err == nil {
		made.etag = fmt.Sprintf(`"%x"`, sha256.Sum256(made.body))
		g.kept.Store(id, made)
	}
	return made, err
}

func (g *gateway) fetch(path, authorization string) ([]byte, error) {
	request, err := http.NewRequest("GET", g.upstream+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", authorization)
	response, err := g.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(response.Body)
}

// verify checks an ES256 token; one found good is known by its hash until it expires.
func (g *gateway) verify(token string) (claims, error) {
	hash := sha256.Sum256([]byte(token))
	if known, ok := g.verified.Load(hash); ok && known.(claims).Expires > time.Now().Unix() {
		return known.(claims), nil
	}
	invalid := errors.New("the token is not valid")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, invalid
	}
	var head struct{ Alg, Kid string }
	var who claims
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err := errors.Join(err, decode(parts[0], &head), decode(parts[1], &who)); err != nil {
		return claims{}, err
	}
	key := g.keys[head.Kid]
	if key == nil || head.Alg != "ES256" || len(signature) != 64 {
		return claims{}, invalid
	}
	signed := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(key, signed[:], r, s) || who.Expires <= time.Now().Unix() ||
		who.Issuer != "https://shop.example" || who.Audience != "shop" {
		return claims{}, invalid
	}
	g.verified.Store(hash, who)
	return who, nil
}

func (g *gateway) readKeys() error {
	raw, err := g.fetch("/.well-known/jwks.json", "")
	if err != nil {
		return err
	}
	var set struct{ Keys []struct{ Kid, X, Y string } }
	if err := json.Unmarshal(raw, &set); err != nil {
		return err
	}
	g.keys = map[string]*ecdsa.PublicKey{}
	for _, key := range set.Keys {
		x, errX := base64.RawURLEncoding.DecodeString(key.X)
		y, errY := base64.RawURLEncoding.DecodeString(key.Y)
		if err := errors.Join(errX, errY); err != nil {
			return err
		}
		point := &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}
		g.keys[key.Kid] = point
	}
	return nil
}

func decode(part string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
