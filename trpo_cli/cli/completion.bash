# TAB completion of trpo-train, trpo-eval, trpo-export and trpo-report in bash.
_trpo_train() {
    local word line IFS=$'\n'
    line=${COMP_LINE:0:COMP_POINT}
    word=${line##*[[:space:]]}
    COMPREPLY=($("$1" --complete "$line" 2>/dev/null))
    # bash takes a word apart at these signs, and wants what stands behind the last of them
    local broken=${word%"${word##*[=:,]}"}
    [[ $COMP_WORDBREAKS == *,* ]] || broken=${word%"${word##*[=:]}"}
    COMPREPLY=("${COMPREPLY[@]#"$broken"}")
    if [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} == *[=./] ]]; then compopt -o nospace; fi
}
_trpo_options() {
    COMPREPLY=()
    if [[ $2 == -* ]]; then
        COMPREPLY=($(compgen -W "$("$1" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*' | sort -u)" -- "$2"))
    fi
}
complete -F _trpo_train trpo-train
complete -o default -F _trpo_options trpo-eval trpo-export trpo-report
