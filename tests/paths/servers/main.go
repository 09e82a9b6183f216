// Go's net/http with its ServeMux.
package main

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
)

func escape(text string) string {
	var escaped strings.Builder
	for _, code := range []byte(text) {
		if code > 0x20 && code < 0x7f && code != '\\' {
			escaped.WriteByte(code)
		} else {
			fmt.Fprintf(&escaped, "\\x%02x", code)
		}
	}
	return escaped.String()
}

func handler(name string) http.HandlerFunc {
	return func(response http.ResponseWriter, request *http.Request) {
		response.Header().Set("x-reached", name)
		response.Header().Set("x-read", escape(request.URL.Path))
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println(strings.TrimPrefix(runtime.Version(), "go"))
		return
	}
	http.HandleFunc("/public/", handler("public"))
	http.HandleFunc("/admin/", handler("admin"))
	http.HandleFunc("/secret", handler("secret"))
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
