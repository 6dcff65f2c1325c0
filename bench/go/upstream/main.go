// The services behind a gateway, as far as a benchmark needs them: whole answers from a file, by path.
//
//	upstream -listen 127.0.0.1:9000 -answers answers.json [-usual]
//
// The file maps a path to an HTTP response as it goes over the wire. It is written after each request, whatever the
// method, so a sink for traces is one more path. A text/event-stream is held open, with a comment every few seconds.
// This shares its core with the load generator and should not be what is measured, so it has no net/http, except with
// -usual: then it answers as fast as services that are written as usual, and fast peers wait for it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

const heartbeat = 5 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "where to listen")
	file := flag.String("answers", "answers.json", "path -> response, as a JSON object of strings")
	usual := flag.Bool("usual", false, "answer with net/http")
	flag.Parse()
	raw, err := os.ReadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	var texts map[string]string
	if err := json.Unmarshal(raw, &texts); err != nil {
		log.Fatal(err)
	}
	answers := make(map[string][]byte, len(texts))
	for path, text := range texts {
		answers[path] = []byte(text)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	if *usual {
		log.Fatal(http.Serve(listener, asUsual(answers)))
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn, answers)
	}
}

// asUsual is for what has an end.
func asUsual(answers map[string][]byte) http.Handler {
	mux := http.NewServeMux()
	for path, answer := range answers {
		response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
		if err != nil || response.ContentLength < 0 {
			continue
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			log.Fatal(err)
		}
		mux.HandleFunc(path, func(writer http.ResponseWriter, _ *http.Request) {
			for name, values := range response.Header {
				writer.Header()[name] = values
			}
			writer.WriteHeader(response.StatusCode)
			writer.Write(body)
		})
	}
	return mux
}

func serve(conn net.Conn, answers map[string][]byte) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		answer, err := read(in, answers)
		if err != nil {
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
		if bytes.Contains(answer, []byte("text/event-stream")) {
			stream(conn)
			return
		}
	}
}

// read takes one request, its body included, and finds the answer to it.
func read(in *bufio.Reader, answers map[string][]byte) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	_, rest, _ := bytes.Cut(line, []byte(" "))
	target, _, _ := bytes.Cut(rest, []byte(" "))
	path, _, _ := bytes.Cut(target, []byte("?"))
	answer, known := answers[string(path)]
	if !known {
		answer = []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	}
	length := 0
	for len(line) > len("\r\n") {
		if line, err = in.ReadSlice('\n'); err != nil {
			return nil, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if len(name) == len("content-length") && bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return nil, err
			}
		}
	}
	_, err = in.Discard(length)
	return answer, err
}

func stream(conn net.Conn) {
	for range time.Tick(heartbeat) {
		if _, err := conn.Write([]byte(":\n\n")); err != nil {
			return
		}
	}
}
