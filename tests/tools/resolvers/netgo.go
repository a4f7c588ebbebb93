// Go's own resolver.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
)

func ask(r *net.Resolver, kind, name string) ([]string, error) {
	ctx := context.Background()
	var out []string
	switch kind {
	case "HOST", "A", "AAAA":
		network := map[string]string{"HOST": "ip", "A": "ip4", "AAAA": "ip6"}[kind]
		ips, err := r.LookupIP(ctx, network, name)
		for _, ip := range ips {
			out = append(out, ip.String())
		}
		return out, err
	case "SRV":
		_, records, err := r.LookupSRV(ctx, "", "", name)
		for _, one := range records {
			out = append(out, fmt.Sprintf("%d/%s", one.Port, strings.TrimSuffix(one.Target, ".")))
		}
		return out, err
	case "TXT":
		return r.LookupTXT(ctx, name)
	}
	return nil, errors.New("unknown type")
}

func main() {
	r := &net.Resolver{PreferGo: true}
	for _, question := range os.Args[1:] {
		kind, name, _ := strings.Cut(question, ":")
		out, err := ask(r, kind, name)
		var of *net.DNSError
		switch {
		case errors.As(err, &of) && of.IsNotFound:
			// Go does not tell a name without such records from one that is not there.
			out = []string{"NXDOMAIN"}
		case err != nil:
			out = []string{"ERROR", err.Error()}
		}
		sort.Strings(out)
		fmt.Println(strings.Join(append([]string{question}, out...), " "))
	}
}
